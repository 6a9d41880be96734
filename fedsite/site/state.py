"""What a site remembers: one SQLite file with its rounds, its privacy ledger and its audit chain.

`ledger` and `audit` are append-only (triggers forbid update and delete) and hash-chained: a record's hash covers
its sequence, its time, its body and the hash before it. Every ledger record is mirrored by an audit record in the
same transaction, so that neither can be cut short without the other telling.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fedsite.errors import CannotWrite, NotAuthorised, RecordsDamaged, TryAgainLater
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, cannot_write, fsync_folder, is_private, make_folder
from fedsite.site.identity import IdentityFiles

VERSION = 1
FOLDERS = ("identity", "outbox", "checkpoints", "models", "logs")
BUSY_SECONDS = 10.0
ZERO = "0" * 64
Chain = Literal["ledger", "audit"]
_SET_UP = "Set this site up with: fedsite init. If its state folder was lost: fedsite privacy recover"
MEND = "fedsite privacy recover makes records anew from what is known, and keeps these for the auditor."

_SCHEMA = """
create table rounds (
    federation text not null, round integer not null, state text not null, body text not null, changed text not null,
    primary key (federation, round)
) strict;
create table evaluations (model_sha256 text primary key, time text not null, body text not null) strict;
"""
_CHAIN_SCHEMA = """
create table {chain} (
    sequence integer primary key, previous text not null, time text not null, body text not null, hash text not null
) strict;
create trigger {chain}_is_never_updated before update on {chain}
    begin select raise(abort, 'the {chain} is append-only'); end;
create trigger {chain}_is_never_deleted before delete on {chain}
    begin select raise(abort, 'the {chain} is append-only'); end;
"""


class NotOurs(RecordsDamaged):
    """The records are another user's, or of another version of fedsite: nothing is damaged, so nothing is to mend."""


@dataclass(frozen=True)
class Record:
    """One link of a chain: `text` is the body as stored, byte for byte what `hash` covers."""

    sequence: int
    previous: str
    time: str
    text: str
    body: dict[str, Any]
    hash: str

    @property
    def is_intact(self) -> bool:
        """Whether the record is what its own hash covers."""
        return self.hash == _hash(self.sequence, self.previous, self.time, self.text)


@dataclass(frozen=True)
class RoundRecord:
    """Where a round stands at this site. `body` holds digests and file names, never data."""

    federation: str
    round: int
    state: str
    body: dict[str, Any]
    changed: str


class State:
    """The open state folder. One owner; every change is one durable transaction."""

    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self.folder = folder
        self._database = database

    @classmethod
    def create(cls, folder: Path) -> "State":
        """Makes the folder (0700) and an empty database. Raises CannotWrite, also when one is there already."""
        make_folder(folder, PRIVATE_FOLDER)
        try:
            folder.chmod(PRIVATE_FOLDER)
        except OSError as error:
            raise cannot_write(folder / "state.db", error) from error
        for name in FOLDERS:
            make_folder(folder / name, PRIVATE_FOLDER)
        path = folder / "state.db"
        if path.exists():
            raise CannotWrite("This state folder is in use already.", "Choose another, or go on with this one.")
        # Built aside and renamed, so that a crash never leaves a database without its tables.
        draft = folder / ".state.db.new"
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE))
        database = _connect(draft)
        chains = "".join(_CHAIN_SCHEMA.format(chain=chain) for chain in ("ledger", "audit"))
        database.executescript(f"begin; {_SCHEMA} {chains} pragma user_version = {VERSION}; commit;")
        database.execute("pragma wal_checkpoint(truncate)")
        database.close()
        draft.replace(path)
        fsync_folder(folder)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "State":
        """Opens an existing state folder.

        Raises NotAuthorised when it is absent, NotOurs when it is another user's or another version's, RecordsDamaged
        when it is no database, or when it is gone from the folder of a site that was enrolled.
        """
        _require_own(folder)
        path = folder / "state.db"
        try:
            database = _connect(path)
            version = database.execute("pragma user_version").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise TryAgainLater("Another process is writing to the state database.", "Try again later.") from error
            raise CannotWrite(
                f"The state database cannot be opened: {error}.", "Free some space or mend the permissions; run again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise RecordsDamaged("state.db is no readable database.", MEND) from error
        if version < VERSION:
            database.close()
            raise RecordsDamaged("state.db holds no records of fedsite's.", MEND)
        if version > VERSION:
            database.close()
            raise NotOurs(
                f"state.db has version {version}; this fedsite knows {VERSION}.", "Install the matching fedsite."
            )
        return cls(folder, database)

    def close(self) -> None:
        """Closes the database; the object is of no use afterwards."""
        self._database.close()

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable on return. Nests: an inner one joins the outer."""
        if self._database.in_transaction:
            yield
            return
        try:
            self._database.execute("begin immediate")
            try:
                yield
                self._database.execute("commit")
            except BaseException:
                if self._database.in_transaction:  # a full disk rolls back by itself
                    self._database.execute("rollback")
                raise
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise TryAgainLater("Another process is writing to the state database.", "Try again later.") from error
            raise CannotWrite(
                f"The state database cannot be written: {error}.", "Free some space or mend the permissions; run again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise RecordsDamaged(f"The state database is damaged: {error}.", MEND) from error

    # --- the two chains -----------------------------------------------------------------------------------------

    def append(self, chain: Chain, body: dict[str, Any]) -> Record:
        """Adds a record to a chain, and to the audit the mirror of a ledger record. Durable on return."""
        with self.transaction():
            last = self.last(chain)
            sequence, previous = (last.sequence + 1, last.hash) if last else (1, ZERO)
            time = datetime.now(UTC).isoformat(timespec="seconds")
            text = canonical_json(body)
            record = Record(sequence, previous, time, text, body, _hash(sequence, previous, time, text))
            self._database.execute(
                f"insert into {chain} values (?, ?, ?, ?, ?)",  # noqa: S608 - `chain` is one of two literals
                (sequence, previous, time, text, record.hash),
            )
            if chain == "ledger":
                self.audit("ledger", ledger_sequence=sequence, ledger_hash=record.hash, kind=body["kind"])
        return record

    def audit(self, event: str, **details: Any) -> Record:  # noqa: ANN401 - whatever JSON can hold
        """Writes an event into the audit chain."""
        return self.append("audit", {"event": event, **details})

    def records(self, chain: Chain, after: int = 0) -> Iterator[Record]:
        """The records of a chain in order, as stored. Raises RecordsDamaged on a body that is not JSON."""
        rows = self._select(
            # A chain is one of two words of our own.
            f"select sequence, previous, time, body, hash from {chain} where sequence > ? order by sequence",  # noqa: S608
            (after,),
        )
        for sequence, previous, time, text, digest in rows:
            yield Record(sequence, previous, time, text, _parsed(text, f"Record {sequence} of the {chain}"), digest)

    def last(self, chain: Chain) -> Record | None:
        """The newest record of a chain."""
        (newest,) = next(self._select(f"select max(sequence) from {chain}"))  # noqa: S608 - as above
        return next(self.records(chain, after=newest - 1)) if newest else None

    def verify(self) -> dict[Chain, int]:
        """Recomputes both chains and their mirror; gives their lengths.

        Raises RecordsDamaged naming the first record that is altered, missing or out of order.
        """
        lengths: dict[Chain, int] = {}
        hashes: dict[int, str] = {}
        mirrored: dict[int, str] = {}
        for chain in ("ledger", "audit"):
            previous, expected = ZERO, 1
            for record in self.records(chain):
                if record.sequence != expected:
                    raise RecordsDamaged(f"Record {expected} of the {chain} is missing.", MEND)
                if record.previous != previous or not record.is_intact:
                    raise RecordsDamaged(f"Record {record.sequence} of the {chain} was altered.", MEND)
                if chain == "ledger":
                    hashes[record.sequence] = record.hash
                elif record.body.get("event") == "ledger":
                    mirrored[record.body["ledger_sequence"]] = record.body["ledger_hash"]
                previous, expected = record.hash, expected + 1
            lengths[chain] = expected - 1
        for sequence in sorted(hashes.keys() | mirrored.keys()):
            if sequence not in hashes:
                raise RecordsDamaged(f"Record {sequence} of the ledger is missing.", MEND)
            if hashes[sequence] != mirrored.get(sequence):
                raise RecordsDamaged(f"The audit record of ledger record {sequence} is missing.", MEND)
        return lengths

    # --- rounds and evaluations ---------------------------------------------------------------------------------

    def put_round(self, federation: str, number: int, state: str, body: dict[str, Any]) -> None:
        """Writes where a round stands, and says so in the audit chain when its state changes."""
        with self.transaction():
            before = self.round(federation, number)
            self._database.execute(
                "insert into rounds values (?, ?, ?, ?, ?) on conflict do update set"
                " state = excluded.state, body = excluded.body, changed = excluded.changed",
                (federation, number, state, canonical_json(body), datetime.now(UTC).isoformat(timespec="seconds")),
            )
            if before is None or before.state != state:
                self.audit("round", federation=federation, round=number, state=state)

    def round(self, federation: str, number: int) -> RoundRecord | None:
        """One round's record."""
        return next((found for found in self.rounds(federation) if found.round == number), None)

    def rounds(self, federation: str) -> list[RoundRecord]:
        """All rounds of a federation that this site has met, oldest first."""
        rows = self._select("select * from rounds where federation = ? order by round", (federation,))
        return [
            RoundRecord(name, number, state, _parsed(body, f"Round {number}"), at)
            for name, number, state, body, at in rows
        ]

    def put_evaluation(self, model_sha256: str, body: dict[str, Any]) -> None:
        """Keeps how well a global model does on the held-out patients. It stays at home."""
        with self.transaction():
            self._database.execute(
                "insert into evaluations values (?, ?, ?) on conflict do update set body = excluded.body",
                (model_sha256, datetime.now(UTC).isoformat(timespec="seconds"), canonical_json(body)),
            )

    def evaluation(self, model_sha256: str) -> dict[str, Any] | None:
        """What `put_evaluation` kept for a model."""
        rows = self._select("select body from evaluations where model_sha256 = ?", (model_sha256,))
        return next((_parsed(body, "An evaluation") for (body,) in rows), None)

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """All that `put_evaluation` kept, by the model's digest, in the order in which models were first measured."""
        rows = self._select("select model_sha256, body from evaluations order by time, rowid")
        return {digest: _parsed(body, "An evaluation") for digest, body in rows}

    def _select(self, statement: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        # Damage shows when a row is read, not only when the statement begins.
        try:
            for row in self._database.execute(statement, values):  # noqa: UP028 - closing must not reach the cursor
                yield row
        except sqlite3.DatabaseError as error:
            raise RecordsDamaged(f"The state database is damaged: {str(error)[:80]}.", MEND) from error


def _require_own(folder: Path) -> None:
    """Raises what `State.open` raises of a folder that is not there, not this user's, or without its database."""
    try:
        there, private = (folder / "state.db").is_file(), is_private(folder.resolve())
    except PermissionError:
        there, private = True, False
    except OSError:
        there, private = False, False
    if not there and IdentityFiles(folder / "identity").certificate.is_file():
        raise RecordsDamaged("state.db is gone, and with it what this site's ledger has spent.", MEND)
    if not there:
        raise NotAuthorised(f"There is no state folder at {folder}.", _SET_UP)
    if not private:
        raise NotOurs(
            f"The state folder {folder} is not this user's alone.",
            f"Run fedsite as the user who owns it; its mode must be 0700 (chmod 700 {folder}).",
        )


def canonical_json(body: dict[str, Any]) -> str:
    """One spelling for one content: sorted keys, no spaces, no NaN."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise RecordsDamaged(f"{what} is no JSON.", MEND) from error
    if not isinstance(body, dict):
        raise RecordsDamaged(f"{what} is no record.", MEND)
    return body


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _hash(sequence: int, previous: str, time: str, text: str) -> str:
    return hashlib.sha256(f"{sequence}\n{previous}\n{time}\n{text}".encode()).hexdigest()
