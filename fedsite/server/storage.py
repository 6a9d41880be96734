"""What the server remembers: SQLAlchemy tables (SQLite in WAL mode by default) and model files by SHA-256.

The database is the truth; a file counts only once a row says so. Every writer therefore writes the file first,
fsynced and renamed, and the row after it: a crash between the two leaves a file that nobody mentions, and whoever
repeats the work writes the same file again.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from fedsite.errors import CannotWrite, TryAgainLater
from fedsite.files import PRIVATE_FILE, cannot_write, fsync_folder

SCHEMA_VERSION = 2


class Instant(TypeDecorator[datetime]):
    """An aware instant. SQLite forgets time zones, so it is given UTC and trusted to hold UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        """On the way in: to UTC."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        """On the way out: aware again."""
        return value and value.replace(tzinfo=UTC)


class Table(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """The root of all tables."""

    type_annotation_map = {datetime: Instant}  # noqa: RUF012 - SQLAlchemy's own spelling


class FederationRow(Table):
    """The one row that says what this folder is. `hosts` are the names in the server's certificate, one a line.

    `approval`: a person says yes before an invited site gets its first certificate.
    """

    __tablename__ = "federation"
    name: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    hosts: Mapped[str]
    agreement: Mapped[str]
    created: Mapped[datetime]
    agreement_expires: Mapped[datetime | None] = mapped_column(default=None)
    approval: Mapped[bool] = mapped_column(default=False)
    schema_version: Mapped[int] = mapped_column(default=SCHEMA_VERSION)


class InvitationRow(Table):
    """An invitation, its secret hashed. It serves one public key, `spki_sha256`, the first that asks with it.

    `asked`: when that was. `served`: when it was given its certificate. `approval`: a person must say yes first;
    `approved`: when that was.
    """

    __tablename__ = "invitations"
    secret_sha256: Mapped[str] = mapped_column(primary_key=True)
    site: Mapped[str]
    created: Mapped[datetime]
    expires: Mapped[datetime]
    approval: Mapped[bool] = mapped_column(default=False)
    spki_sha256: Mapped[str | None] = mapped_column(default=None)
    asked: Mapped[datetime | None] = mapped_column(default=None)
    approved: Mapped[datetime | None] = mapped_column(default=None)
    served: Mapped[datetime | None] = mapped_column(default=None)
    revoked: Mapped[datetime | None] = mapped_column(default=None)

    @property
    def pending(self) -> bool:
        """A key has asked, and a person's answer is awaited."""
        return self.asked is not None and self.approval and self.approved is None and self.revoked is None


class CertificateRow(Table):
    """A certificate that this federation's authority has issued to a site; a later one has a higher number.

    Its own dates are whole seconds and cannot tell two certificates of one second apart.
    """

    __tablename__ = "certificates"
    number: Mapped[int] = mapped_column(primary_key=True, init=False)
    sha256: Mapped[str] = mapped_column(unique=True)
    site: Mapped[str] = mapped_column(index=True)
    spki_sha256: Mapped[str]
    der: Mapped[bytes]
    issued: Mapped[datetime]
    expires: Mapped[datetime]
    revoked: Mapped[datetime | None] = mapped_column(default=None)


class SightingRow(Table):
    """When a site last showed its certificate."""

    __tablename__ = "sightings"
    site: Mapped[str] = mapped_column(primary_key=True)
    seen: Mapped[datetime]


class ModelRow(Table):
    """A global model. `round` is the one that made it, None for a model that a person brought."""

    __tablename__ = "models"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    created: Mapped[datetime]
    round: Mapped[int | None] = mapped_column(default=None)


class ControlRow(Table):
    """The server's control of SCAFFOLD that a round has made; its file lies beside the models, in their form."""

    __tablename__ = "controls"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int]


class MomentsRow(Table):
    """FedAdam's moments that a round has made; their files lie beside the models until a later round of the series."""

    __tablename__ = "moments"
    round: Mapped[int] = mapped_column(primary_key=True)
    first_sha256: Mapped[str]
    second_sha256: Mapped[str]


class ScreenRow(Table):
    """What a round's screen has found, as JSON (`screen.Verdict`), before anything was made of its updates.

    `left_out` are the sites whose updates are in no model, one a line. `held_until` is set where a person was to
    decide; `decision` says what became of the conspicuous ones, empty until that is known.
    """

    __tablename__ = "screens"
    round: Mapped[int] = mapped_column(primary_key=True)
    verdict: Mapped[str]
    decision: Mapped[str] = mapped_column(default="")
    left_out: Mapped[str] = mapped_column(default="")
    held_until: Mapped[datetime | None] = mapped_column(default=None)


class SeriesRow(Table):
    """A plan and how many rounds it runs for."""

    __tablename__ = "series"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    plan_sha256: Mapped[str]
    plan: Mapped[str]
    rounds: Mapped[int]


class RoundRow(Table):
    """One round. `status` is one of messages.RoundStatus, or `held` between closing and what follows (its screen waits
    for a person); `reason` says why it closed, `result` is its model.
    """

    __tablename__ = "rounds"
    number: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    place_in_series: Mapped[int]
    ticket: Mapped[str]
    ticket_sha256: Mapped[str]
    model_sha256: Mapped[str] = mapped_column(ForeignKey("models.sha256"))
    opened: Mapped[datetime]
    expires: Mapped[datetime]
    status: Mapped[str] = mapped_column(default="open", index=True)
    closed: Mapped[datetime | None] = mapped_column(default=None)
    reason: Mapped[str] = mapped_column(default="")
    result_sha256: Mapped[str | None] = mapped_column(default=None)


class AttendanceRow(Table):
    """What a site was told of a round, and what it answered short of an update."""

    __tablename__ = "attendance"
    round: Mapped[int] = mapped_column(ForeignKey("rounds.number"), primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    offered: Mapped[datetime | None] = mapped_column(default=None)
    refused: Mapped[datetime | None] = mapped_column(default=None)
    refusal: Mapped[str] = mapped_column(default="")


class UploadRow(Table):
    """A site's one update for a round. `offset` counts fsynced bytes only.

    `state` is `receiving`, then `accepted` (there is a receipt), `refused` (`reason` says why) or `late`. `failures`
    counts how often all bytes came and were not those of the digest.
    """

    __tablename__ = "uploads"
    __table_args__ = (UniqueConstraint("round", "site"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(ForeignKey("rounds.number"))
    site: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int]
    ledger_sequence: Mapped[int]
    weight: Mapped[float]
    created: Mapped[datetime]
    offset: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(default="receiving")
    reason: Mapped[str] = mapped_column(default="")
    received: Mapped[datetime | None] = mapped_column(default=None)
    receipt: Mapped[str | None] = mapped_column(default=None)


class Database:
    """Transactions on a database URL. Rows stay readable after their transaction has ended."""

    def __init__(self, url: URL) -> None:
        self._engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        self._writer = self._engine.execution_options(writing=True)

    def create(self) -> None:
        """Makes the tables."""
        Table.metadata.create_all(self._writer)

    def complete(self) -> None:
        """Adds the tables that a newer fedsite brought; one query when there are none."""
        if not set(Table.metadata.tables) <= set(inspect(self._engine).get_table_names()):
            self.create()

    def close(self) -> None:
        """Gives all connections back."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view; what is changed in it is forgotten."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that holds the write lock from its start, so that what it reads is still true when it writes.

        Commits at the end, rolls back on any exception. Raises CannotWrite when the disk is full, TryAgainLater when
        another process holds the lock for too long.
        """
        try:
            with Session(self._writer, expire_on_commit=False) as session, session.begin():
                yield session
        except OperationalError as error:
            if "full" in str(error.orig):  # SQLITE_FULL: "database or disk is full"
                raise CannotWrite("The disk that holds the federation is full.", "Free some space.") from error
            if "locked" in str(error.orig):  # SQLITE_BUSY: "database is locked"
                raise TryAgainLater("Another process is writing to the federation's database.") from error
            raise


def _prepare_sqlite(engine: Engine) -> None:
    """WAL with synchronous=FULL (a commit survives a power cut), and transactions that begin when we say so."""

    @event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


class Blobs:
    """Files named by their SHA-256 in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file of a digest is, or would be."""
        return self._folder / sha256

    def add(self, blocks: Iterable[bytes], draft: str) -> tuple[str, int]:
        """Stores bytes as they come; gives (SHA-256, size). Raises as `add_together` does."""
        return self.add_together(({"file": block} for block in blocks), draft)["file"]

    def add_together(self, pieces: Iterable[Mapping[str, bytes]], draft: str) -> dict[str, tuple[str, int]]:
        """Stores several files piece by piece; gives (SHA-256, size) of each by name.

        A crash leaves drafts, which the next try overwrites. Raises CannotWrite when the disk does not take the bytes.
        """
        with ExitStack() as together:
            files: dict[str, _Draft] = {}
            for some in pieces:
                for name, block in some.items():
                    if name not in files:
                        files[name] = together.enter_context(self._draft(f"{name}.{draft}"))
                    files[name].write(block)
        return {name: (one.digest.hexdigest(), one.size) for name, one in files.items()}

    def remove(self, sha256: str) -> None:
        """Removes the file of a digest, if it is there."""
        self.path(sha256).unlink(missing_ok=True)

    @contextmanager
    def _draft(self, name: str) -> Iterator["_Draft"]:
        """A file under way: durable under its digest once the block has ended, gone when that fails."""
        temporary = self._folder / f".{name}"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE), "wb") as file:
                draft = _Draft(file)
                yield draft
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise cannot_write(temporary, error) from error
            raise
        temporary.replace(self.path(draft.digest.hexdigest()))
        fsync_folder(self._folder)


class _Draft:
    """An open file, its digest and its size so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, block: bytes) -> None:
        """Appends."""
        self.digest.update(block)
        self.size += self._file.write(block)
