"""What a site remembers: one SQLite file with its rounds, its privacy ledger and its audit chain.

`ledger` and `audit` are append-only (triggers forbid update and delete) and hash-chained (`site.chain`). Every ledger
record is mirrored by an audit record in the same transaction, so that neither can be cut short without the other
telling; where both end is remembered beside the database (`site.head`).
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsite.errors import CannotWrite, FedsiteError, NotAuthorised, RecordsDamaged, TryAgainLater
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, cannot_write, fsync_folder, is_private, make_folder
from fedsite.site import chain as chains
from fedsite.site import head, migrations
from fedsite.site.chain import CHAINS, Anchor, Chain, Head, Record, canonical_json, hash_of
from fedsite.site.identity import IdentityFiles
from fedsite.site.operator import operator

__all__ = ["Chain", "NotOurs", "Record", "RoundRecord", "State"]

FOLDERS = ("identity", "outbox", "checkpoints", "models", "logs")
BUSY_SECONDS = 10.0
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
class RoundRecord:
    """Where a round stands at this site. `body` holds digests and file names, never data."""

    federation: str
    round: int
    state: str
    body: dict[str, Any]
    changed: str


class State:
    """The open state folder. One owner; every change is one durable transaction."""

    def __init__(
        self, folder: Path, database: sqlite3.Connection, remembered: Mapping[Chain, Head] | None = None
    ) -> None:
        """`remembered` stands in for `records.head` where the database is a copy, of which nothing is kept."""
        self.folder = folder
        self._database = database
        self._remembered = remembered
        self._grown = False  # whether the transaction under way has added a record

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
        tables = "".join(_CHAIN_SCHEMA.format(chain=chain) for chain in CHAINS)
        migrations.fill(database, _SCHEMA + tables)
        database.execute("pragma wal_checkpoint(truncate)")
        database.close()
        head.create(folder, {chain: Head() for chain in CHAINS})
        draft.replace(path)
        fsync_folder(folder)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, *, looking: bool = False) -> "State":
        """Opens an existing state folder; an older fedsite's is brought up to date first (`site.migrations`).

        Whoever is only `looking` leaves that for a run that means to write, and is shown an up-to-date copy.
        Raises NotAuthorised when it is absent, NotOurs when it is another user's or a newer version's, RecordsDamaged
        when it is no database, or when it is gone from the folder of a site that was enrolled; what `migrations` does.
        """
        _require_own(folder)
        path = folder / "state.db"
        try:
            database = _connect(path)
            version = migrations.version_of(database)
            newer = migrations.newer_than_this(database) if version > migrations.VERSION else ()
        except sqlite3.OperationalError as error:
            raise _explained(error, "opened") from error
        except sqlite3.DatabaseError as error:
            raise RecordsDamaged("state.db is no readable database.", MEND) from error
        if version == migrations.VERSION:
            return cls(folder, database)
        if not 0 < version < migrations.VERSION:
            database.close()
            raise NotOurs(*newer) if newer else RecordsDamaged("state.db holds no records of fedsite's.", MEND)
        if looking:
            with closing(database):
                return cls._copy_of(folder, database)
        with cls(folder, database) as state:
            migrations.bring_up_to_date(state, database)
        return cls.open(folder)

    @classmethod
    def _copy_of(cls, folder: Path, database: sqlite3.Connection) -> "State":
        """An older database as it would be. SQLite keeps the copy itself, and drops it when it is closed."""
        # First the ends, then the copy: others may write meanwhile, and ends that lie behind harm nothing.
        kept = head.read(folder, MEND) if migrations.version_of(database) > migrations.WITHOUT_HEAD else None
        with ExitStack() as unless_done:
            copy = unless_done.enter_context(closing(sqlite3.connect("", isolation_level=None)))
            try:
                database.backup(copy)
            except sqlite3.OperationalError as error:
                raise _explained(error, "copied") from error
            state = cls(folder, copy, cls(folder, copy).heads() if kept is None else kept)
            with state.transaction():
                migrations.take_steps(state, copy, migrations.version_of(copy))
            unless_done.pop_all()
        return state

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
        self._grown = False
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
            raise _explained(error, "written") from error
        except sqlite3.DatabaseError as error:
            raise RecordsDamaged(f"The state database is damaged: {error}.", MEND) from error
        if self._grown and not self.is_copy:
            head.write(self.folder, self.heads())

    @property
    def is_copy(self) -> bool:
        """Whether this is a copy that was made to be looked at."""
        return self._remembered is not None

    # --- the two chains -----------------------------------------------------------------------------------------

    def append(self, chain: Chain, body: dict[str, Any]) -> Record:
        """Adds a record to a chain, and to the audit the mirror of a ledger record. Durable on return."""
        with self.transaction():
            self._require_its_end()
            last = self.heads()[chain]
            sequence, previous = last.sequence + 1, last.hash
            time = datetime.now(UTC).isoformat(timespec="seconds")
            text = canonical_json(body)
            record = Record(sequence, previous, time, text, body, hash_of(sequence, previous, time, text))
            self._database.execute(
                f"insert into {chain} values (?, ?, ?, ?, ?)",
                (sequence, previous, time, text, record.hash),
            )
            if chain == "ledger":
                self.audit("ledger", ledger_sequence=sequence, ledger_hash=record.hash, kind=body["kind"])
        return record

    def audit(self, event: str, **details: Any) -> Record:
        """Writes an event into the audit chain, and who runs this."""
        return self.append("audit", {"event": event, "operator": operator(), **details})

    def records(self, chain: Chain, after: int = 0) -> Iterator[Record]:
        """The records of a chain in order, as stored. Raises RecordsDamaged on a body that is not JSON."""
        for sequence, previous, time, text, digest in self.rows(chain, after):
            yield Record(sequence, previous, time, text, _parsed(text, f"Record {sequence} of the {chain}"), digest)

    def last(self, chain: Chain) -> Record | None:
        """The newest record of a chain."""
        newest = self.heads()[chain].sequence
        return next(self.records(chain, after=newest - 1)) if newest else None

    def newest(self, event: str) -> Record | None:
        """The newest audit record of an event."""
        found = self._select(
            "select sequence from audit where body like ? order by sequence desc", (f'%"event":"{event}"%',)
        )
        records = (next(self.records("audit", after=sequence - 1)) for (sequence,) in found)
        return next((record for record in records if record.body.get("event") == event), None)

    def heads(self) -> dict[Chain, Head]:
        """Where the chains end."""
        ends: dict[Chain, Head] = {}
        for chain in CHAINS:
            newest = self._select(f"select sequence, hash from {chain} order by sequence desc limit 1")
            ends[chain] = next((Head(*row) for row in newest), Head())
        return ends

    def verify(self, anchors: Sequence[Anchor] = ()) -> dict[Chain, int]:
        """Recomputes both chains, their mirror and their ends; gives their lengths.

        Raises RecordsDamaged naming the first record that is altered, missing or out of order, also where one of the
        `anchors` knows of it.
        """
        remembered = Anchor(head.NAME, self._ends())
        with self.at_one_moment():
            rows = {chain: self.rows(chain) for chain in CHAINS}
            ends = chains.verify(rows, (remembered, *anchors), MEND)
        return {chain: end.sequence for chain, end in ends.items()}

    def rows(self, chain: Chain, after: int = 0) -> Iterator[tuple[Any, ...]]:
        """The records of a chain as stored, nothing of them believed: sequence, previous, time, body, hash."""
        select = f"select sequence, previous, time, body, hash from {chain} where sequence"
        try:
            for row in self._select(f"{select} > ? order by sequence", (after,)):
                yield row
                after = row[0]
        except RecordsDamaged:
            # Python's cursor looks one row ahead: the one that it has just withheld may be whole.
            yield from self._select(f"{select} = ?", (after + 1,))
            raise

    def _ends(self) -> Mapping[Chain, Head]:
        """Where the chains ended at last, as it is remembered outside of the database."""
        return head.read(self.folder, MEND) if self._remembered is None else self._remembered

    def _require_its_end(self) -> None:
        """Nothing is written after records that have lost their end: it would bury the trace of the loss."""
        if self._grown:
            return
        for chain, end in self._ends().items():
            found = self._select(f"select hash from {chain} where sequence = ?", (end.sequence,))
            if end.sequence and next(found, None) != (end.hash,):
                raise RecordsDamaged(
                    f"Record {end.sequence} of the {chain}, which {head.NAME} remembers, is missing or was altered.",
                    MEND,
                )
        self._grown = True

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """What is read inside is of one moment, whoever writes meanwhile."""
        if self._database.in_transaction:
            yield
            return
        self._database.execute("begin")
        try:
            yield
        finally:
            self._database.execute("rollback")

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


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise RecordsDamaged(f"{what} is no JSON.", MEND) from error
    if not isinstance(body, dict):
        raise RecordsDamaged(f"{what} is no record.", MEND)
    return body


def _explained(error: sqlite3.OperationalError, what: str) -> FedsiteError:
    if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
        return TryAgainLater("Another process is writing to the state database.", "Try again later.")
    return CannotWrite(
        f"The state database cannot be {what}: {error}.", "Free some space or mend the permissions; run again."
    )


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
    except sqlite3.Error:
        database.close()
        raise
    return database
