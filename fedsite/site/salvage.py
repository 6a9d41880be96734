"""What can still be read of a damaged `state.db`, and a new one in its place. The old one is kept for the auditor."""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsite.errors import CannotWrite, RecordsDamaged
from fedsite.files import PRIVATE_FOLDER, cannot_write, fsync_folder, make_folder
from fedsite.site import head
from fedsite.site.chain import Record
from fedsite.site.state import NotOurs, RoundRecord, State

KEPT = "damaged"
_DATABASE = ("state.db", "state.db-wal")
_FILES = (*_DATABASE, "state.db-shm", head.NAME)
_CHAIN = "select sequence, previous, time, body, hash from {} order by sequence"


@dataclass(frozen=True)
class Salvage:
    """The rows of a damaged database that can be read. A record may be altered: `Record.is_intact` tells."""

    ledger: tuple[Record, ...] = ()
    audit: tuple[Record, ...] = ()
    rounds: tuple[RoundRecord, ...] = ()
    evaluations: tuple[tuple[str, dict[str, Any]], ...] = ()


def damage(folder: Path) -> str:
    """What is wrong with the records in a state folder; empty when they are whole.

    Raises NotOurs, NotAuthorised and CannotWrite: nothing of that is mended by making records anew.
    """
    try:
        with State.open(folder) as state:
            return "" if state.verify()["ledger"] else "This state folder has no ledger."
    except NotOurs:
        raise
    except RecordsDamaged as error:
        return error.message


def read(folder: Path) -> Salvage:
    """Reads what can be read, from a copy: of `state.db`, or where that is gone, of the last one that was set aside."""
    aside = sorted((folder / KEPT).glob("*/state.db"))
    source = folder if (folder / "state.db").is_file() else aside[-1].parent if aside else None
    if source is None:
        return Salvage()
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name in _DATABASE:
                if (source / name).is_file():
                    shutil.copyfile(source / name, Path(scratch) / name)
            with closing(sqlite3.connect(Path(scratch) / "state.db")) as database:
                return Salvage(
                    ledger=tuple(_records(database, "ledger")),
                    audit=tuple(_records(database, "audit")),
                    rounds=tuple(_rounds(database)),
                    evaluations=tuple(_evaluations(database)),
                )
    except OSError as error:
        raise cannot_write(folder / "state.db", error) from error


def replace(folder: Path, fill: Callable[[State], None]) -> Path:
    """Makes a new `state.db`, filled, then sets the old one aside; gives the folder where that is kept.

    A crash leaves the old one, or (between two renames) none: then `read` finds it where it was set aside.
    """
    draft = folder / ".recovery"
    shutil.rmtree(draft, ignore_errors=True)
    with State.create(draft) as state:
        fill(state)
    aside = folder / KEPT / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    make_folder(aside, PRIVATE_FOLDER)
    try:
        for name in _FILES:
            with suppress(FileNotFoundError):
                (folder / name).replace(aside / name)
        for name in (head.NAME, "state.db"):
            (draft / name).replace(folder / name)
        fsync_folder(aside)
        fsync_folder(folder)
        shutil.rmtree(draft)
    except OSError as error:
        raise CannotWrite(
            f"The new records cannot be put in place: {error.strerror}.", "Free some space; run it again."
        ) from error
    return aside


def _records(database: sqlite3.Connection, chain: str) -> Iterator[Record]:
    for sequence, previous, time, text, digest in _rows(database, _CHAIN.format(chain)):
        if (body := _body(text)) is not None:
            yield Record(sequence, previous, time, text, body, digest)


def _rounds(database: sqlite3.Connection) -> Iterator[RoundRecord]:
    for federation, number, state, text, changed in _rows(database, "select * from rounds order by round"):
        if (body := _body(text)) is not None:
            yield RoundRecord(federation, number, state, body, changed)


def _evaluations(database: sqlite3.Connection) -> Iterator[tuple[str, dict[str, Any]]]:
    for digest, text in _rows(database, "select model_sha256, body from evaluations order by time, rowid"):
        if (body := _body(text)) is not None:
            yield digest, body


def _rows(database: sqlite3.Connection, statement: str) -> Iterator[tuple[Any, ...]]:
    """Rows up to the first that cannot be read."""
    try:
        yield from database.execute(statement)
    except (sqlite3.Error, OverflowError):
        return


def _body(text: object) -> dict[str, Any] | None:
    with suppress(ValueError, TypeError):
        body = json.loads(text)  # type: ignore[arg-type]
        return body if isinstance(body, dict) else None
    return None
