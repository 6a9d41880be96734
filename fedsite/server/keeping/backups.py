"""Backups of a running federation, and a federation from a backup.

    TO/                   0700; never a federation's folder itself: two copies of one must not run
      backup.db           every row at one moment, as SQLite, wherever the federation keeps its own
      keys/               as they are: whoever reads a backup holds the federation's keys
      models/, updates/   the files that rows of that moment name

What still arrives is not in it (sites send it again), nor what was refused.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from fedsite.errors import DataNotFit, SourceMissing, TryAgainLater, UsageError
from fedsite.files import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    atomic_writer,
    fsync_folder,
    make_folder,
    sweep,
    write_atomically,
)
from fedsite.server.federation import (
    DATABASE,
    Federation,
    check_revision,
    create_database,
    is_older,
    new_folder,
    write_sqlite,
)
from fedsite.server.rows import kept_updates
from fedsite.server.store.database import Database, sqlite_url
from fedsite.server.store.storage import ControlRow, ModelRow, MomentsRow, RoundRow, Table

BACKUP = "backup.db"
FOLDERS = ("keys", "models", "updates")
WHOSE = "plan.key"
ATTEMPTS = 5
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Made:
    """How many model files and updates a backup holds, and how many of them were not there before."""

    files: int
    copied: int


@dataclass(frozen=True)
class _File:
    """A file that rows name: where it lies, below a federation's folder and below a backup's, and what it holds."""

    folder: str
    name: str
    sha256: str

    def below(self, root: Path) -> Path:
        return root / self.folder / self.name


def backup(federation: Federation, to: Path) -> Made:
    """Backs a federation up into a new folder, or into that of its backup before, where only what is new is copied.

    A backup is whole at every moment: its database comes last, and what it named before goes after that. One that was
    cut off is finished by the next. Raises UsageError for a folder with anything else in it, DataNotFit when a file is
    not what its digest says, TryAgainLater while another backup goes there.
    """
    _check_target(federation, to)
    make_folder(to, PRIVATE_FOLDER)
    for one in FOLDERS:
        make_folder(to / one, PRIVATE_FOLDER)
    with _alone(to):
        for _ in range(ATTEMPTS):
            try:
                return _backed_up(federation, to)
            except FileNotFoundError:  # a round has ended meanwhile, and what it was made of is gone: look again
                continue
    raise TryAgainLater("Rounds end faster than their updates can be copied.", "Run the command again.")


def restore(source: Path, folder: Path, url: str = "") -> int:
    """Makes a federation of a backup in a new folder, on SQLite or on the PostgreSQL of `url`; gives its newest round.

    All of it, or nothing. A backup of an older fedsite is brought up to date. Raises SourceMissing when there is no
    backup, ConfigurationError for a newer fedsite's, DataNotFit for a damaged one, and what `federation.init` does.
    """
    if not (source / BACKUP).is_file():
        raise SourceMissing(f"There is no backup in {source}.", "Name the folder that fedsite server backup wrote.")
    with new_folder(folder):
        draft = folder / "federation.new"
        with (source / BACKUP).open("rb") as rows, atomic_writer(draft, PRIVATE_FILE) as copy:
            shutil.copyfileobj(rows, copy)
        database = _up_to_date(draft, source)
        with database.reading() as session:
            for file in _files(session):
                _copy(file.below(source), file.below(folder), file.sha256)
            _copy_keys(source, folder)
            newest = session.scalar(select(func.max(RoundRow.number))) or 0
            if url:
                create_database(folder, url, lambda target: _copy_rows(session, target))
        database.close()
        if url:
            draft.unlink()
        else:
            draft.rename(folder / DATABASE)
            fsync_folder(folder)
    return newest


def _check_target(federation: Federation, to: Path) -> None:
    """A backup that was cut off is one as soon as it has its key; before that there is nothing to be harmed."""
    key = to / "keys" / WHOSE
    if key.is_file() and any((to / name).is_file() for name in ("lock", BACKUP)):
        fits = key.read_bytes() == (federation.folder / "keys" / WHOSE).read_bytes()
    else:
        fits = not to.exists() or (to.is_dir() and all(map(_harmless, to.rglob("*"))))
    if not fits:
        raise UsageError(
            f"{to} holds something else than a backup of this federation.", "Name a new folder, or an empty one."
        )


def _harmless(path: Path) -> bool:
    return path.name in ("lock", *FOLDERS) or path.suffix == ".tmp"


@contextmanager
def _alone(to: Path) -> Iterator[None]:
    with os.fdopen(os.open(to / "lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TryAgainLater(f"Another backup into {to} is under way.") from None
        fsync_folder(to)  # it tells a backup that was cut off from a federation's folder
        yield


def _backed_up(federation: Federation, to: Path) -> Made:
    _copy_keys(federation.folder, to)
    draft = to / "backup.new"
    with federation.database.reading() as session:
        write_sqlite(draft, lambda target: _copy_rows(session, target))
        files = _files(session)
    copied = 0
    for file in files:
        kept = file.below(to)
        if not kept.exists():
            source = federation.models.path(file.sha256) if file.folder == "models" else file.below(federation.folder)
            _copy(source, kept, file.sha256)
            copied += 1
    draft.rename(to / BACKUP)
    fsync_folder(to)
    named = {file.below(to) for file in files}
    for path in [path for one in ("models", "updates") for path in (to / one).iterdir()]:
        if path not in named:
            path.unlink()
    sweep(to)
    return Made(len(files), copied)


def _files(session: Session) -> list[_File]:
    """What the rows of a moment name: first what a round that ends removes."""
    updates = [_File("updates", one.id, one.sha256) for one in session.scalars(kept_updates())]
    moments = session.scalars(select(MomentsRow)).all()
    lasting = [*session.scalars(select(ModelRow.sha256)), *session.scalars(select(ControlRow.sha256))]
    models = [*(one for row in moments for one in (row.first_sha256, row.second_sha256)), *lasting]
    return [*updates, *(_File("models", one, one) for one in dict.fromkeys(models))]


def _copy(source: Path, target: Path, sha256: str) -> None:
    """A durable copy of what its digest says. Raises FileNotFoundError, DataNotFit."""
    digest = hashlib.sha256()
    with source.open("rb") as file, atomic_writer(target, PRIVATE_FILE) as copy:
        while block := file.read(1 << 20):
            digest.update(block)
            copy.write(block)
        if digest.hexdigest() != sha256:
            raise DataNotFit(f"{source} is not what its digest says.", "Bring it back from an older backup.")


def _copy_keys(source: Path, target: Path) -> None:
    for path in sorted((source / "keys").iterdir(), key=lambda path: path.name != WHOSE):
        write_atomically(target / "keys" / path.name, path.read_bytes(), PRIVATE_FILE)


def _copy_rows(source: Session, target: Session) -> None:
    """Every row of every table; PostgreSQL's counters go on behind them."""
    for table in Table.metadata.sorted_tables:
        found = source.execute(select(table), execution_options={"yield_per": ROWS_AT_ONCE})
        for rows in found.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in rows])
        counted = table.autoincrement_column
        if counted is not None and target.get_bind().dialect.name == "postgresql":
            counter = func.pg_get_serial_sequence(table.name, counted.name)
            target.execute(select(func.setval(counter, func.max(counted))))


def _up_to_date(draft: Path, source: Path) -> Database:
    """A backup's database, with this fedsite's tables."""
    database = Database(sqlite_url(draft))
    found = database.revision()
    if is_older(found):
        from fedsite.server.keeping.upgrades import migrate  # alembic takes a second to import

        migrate(database)
    else:
        check_revision(found, str(source))
    return database
