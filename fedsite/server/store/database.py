"""The database: SQLite in the federation's folder, or PostgreSQL by URL. To everybody else the two are one.

A transaction that writes has the federation to itself from its start, one that reads sees one moment: SQLite does so by
its own lock and its log, PostgreSQL by an advisory lock and by REPEATABLE READ. A password is never ours to keep: libpq
finds it where PostgreSQL's users have it (https://www.postgresql.org/docs/current/libpq-pgpass.html).
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from fedsite.errors import CannotWrite, ConfigurationError, DataNotFit, FedsiteError, TryAgainLater, UsageError
from fedsite.server.store.storage import REVISION, FederationRow, Table

LOCK_SECONDS = 10
_LOCK = 0x66656473697465  # the bytes of "fedsite", as the number that advisory locks are named by
BEFORE_MIGRATIONS = "0000"
_REVISION_TABLE = "alembic_version"
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_WAITS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Every wait for a PostgreSQL across a network has an end (seconds; the last one milliseconds)."""


class Database:
    """Transactions on a database. Rows stay readable after their transaction has ended.

    Both kinds raise CannotWrite when the disk is full, DataNotFit when SQLite's file is damaged, TryAgainLater when
    another process holds the lock for too long or PostgreSQL cannot be reached: whatever was begun has not happened, or
    will be found done by whoever repeats it.
    """

    def __init__(self, url: URL) -> None:
        """Connects to nothing yet. Raises ConfigurationError when the driver is not installed."""
        self.is_postgresql = url.get_backend_name() == "postgresql"
        self._reader = _postgresql(url) if self.is_postgresql else _sqlite(url)
        self._explained = _postgresql_explained if self.is_postgresql else _sqlite_explained
        isolation = {"isolation_level": "READ COMMITTED"} if self.is_postgresql else {}
        self._writer = self._reader.execution_options(writing=True, **isolation)
        weakref.finalize(
            self, self._reader.dispose
        )  # commands end without closing; a session should not just break off

    def create(self, fill: Callable[[Session], None]) -> None:
        """Makes the tables and fills them, all in one transaction. Raises UsageError when there are some already."""
        with self.writing() as session:
            connection = session.connection()
            if {_REVISION_TABLE, *Table.metadata.tables} & set(inspect(connection).get_table_names()):
                raise UsageError("The database holds a federation already.", "Name an empty database.")
            Table.metadata.create_all(connection)
            key = f"CONSTRAINT {_REVISION_TABLE}_pkc PRIMARY KEY (version_num)"
            connection.exec_driver_sql(f"CREATE TABLE {_REVISION_TABLE} (version_num VARCHAR(32) NOT NULL, {key})")
            connection.exec_driver_sql(f"INSERT INTO {_REVISION_TABLE} VALUES ('{REVISION}')")  # noqa: S608 - our words
            fill(session)

    def revision(self) -> str | None:
        """The migration that its tables are the outcome of; None where there are none."""
        with self.reading() as session:
            inspector = inspect(session.connection())
            if not inspector.has_table(_REVISION_TABLE):
                return BEFORE_MIGRATIONS if inspector.has_table(FederationRow.__tablename__) else None
            return session.execute(text(f"SELECT version_num FROM {_REVISION_TABLE}")).scalar()  # noqa: S608 - our name

    def close(self) -> None:
        """Gives all connections back."""
        self._reader.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view; what is changed in it is forgotten."""
        with self._explaining(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that holds the write lock from its start, so that what it reads is still true when it writes.

        Commits at the end, rolls back on any exception.
        """
        with self._explaining(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            explained = self._explained(error)
            raise explained or error from error
        except PoolExhausted as error:
            raise TryAgainLater("The federation's database is busy.") from error


def sqlite_url(path: Path) -> URL:
    """The URL of an SQLite file."""
    return URL.create("sqlite", database=str(path.absolute()))


def postgresql_url(given: str) -> URL:
    """A URL as a coordinator writes it: postgresql://USER@HOST/DATABASE, and parameters of libpq.

    Raises UsageError for any other, and for one with a password: it would stand in the list of processes, in a file,
    and in a shell's history. Where a host is named that is not this machine, its certificate is verified, unless the
    URL says otherwise.
    """
    try:
        url = make_url(given)
    except ArgumentError:
        raise UsageError("The database's URL cannot be read.", "Write postgresql://USER@HOST/DATABASE.") from None
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(
            "Only PostgreSQL is named by a URL (postgresql://USER@HOST/DATABASE).", "Leave it out for SQLite."
        )
    if url.password is not None or any(name in url.query for name in _SECRETS):
        raise UsageError(
            "A password must not stand in the database's URL.",
            "Put it into a password file of mode 0600 and end the URL with ?passfile=/path/of/it (a line"
            " HOST:PORT:DATABASE:USER:PASSWORD); or let PostgreSQL know this user (peer, a certificate). Change the"
            " password: it has been in this machine's list of processes.",
        )
    url = url.set(drivername="postgresql+psycopg")
    local = all(one.startswith("/") or one in ("localhost", "127.0.0.1", "::1") for one in _hosts(url))
    return url if local or "sslmode" in url.query else url.update_query_dict({"sslmode": "verify-full"})


def _hosts(url: URL) -> list[str]:
    """The hosts that a URL names; none where libpq's default, a socket of this machine, is meant."""
    named = url.query.get("host", ())
    places = [url.host or "", *([named] if isinstance(named, str) else named), str(url.query.get("service", ""))]
    return [host for place in places for host in place.split(",") if host]


def _sqlite(url: URL) -> Engine:
    """WAL with synchronous=FULL (a commit survives a power cut), and transactions that begin when we say so."""
    engine = create_engine(url, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        busy = f"busy_timeout={LOCK_SECONDS * 1000}"
        for pragma in ("journal_mode=WAL", "synchronous=FULL", busy, "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _is_writing(connection) else "BEGIN")

    return engine


def _sqlite_explained(error: DBAPIError) -> FedsiteError | None:
    said = str(error.orig)
    if "full" in said:  # SQLITE_FULL: "database or disk is full"
        return _full()
    if "malformed" in said or "not a database" in said:  # SQLITE_CORRUPT, SQLITE_NOTADB
        return DataNotFit("The federation's database is damaged.", "Restore it from a backup.")
    return _taken() if "locked" in said else None  # SQLITE_BUSY: "database is locked"


def _postgresql(url: URL) -> Engine:
    """A lock of our own for whoever writes: it is taken before anything is read, and READ COMMITTED then sees what was
    committed under it before (REPEATABLE READ would see what was there before the wait). `pool_pre_ping`: a restart
    while nothing is under way is noticed by nobody.
    """
    waits = {name: value for name, value in _WAITS.items() if name not in url.query}
    try:
        engine = create_engine(
            url, pool_pre_ping=True, connect_args=waits, isolation_level="REPEATABLE READ", hide_parameters=True
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "PostgreSQL needs psycopg, which is not installed.", "pip install -c constraints.txt 'psycopg[binary]'"
        ) from error

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if _is_writing(connection):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_SECONDS * 1000}")
            connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    return engine


def _postgresql_explained(error: DBAPIError) -> FedsiteError | None:
    """By SQLSTATE (PostgreSQL, appendix A); an error without one comes from libpq and is about the connection."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state == "53100":  # disk_full
        return _full()
    if state == "55P03":  # lock_not_available
        return _taken()
    if error.connection_invalidated or not state or state[:2] in ("08", "28", "3D", "53", "57"):
        reason = " ".join(str(error.orig).split())
        return TryAgainLater("The federation's database cannot be reached.", f"PostgreSQL says: {reason}")
    return None


def _full() -> FedsiteError:
    return CannotWrite("The disk that holds the federation is full.", "Free some space.")


def _taken() -> FedsiteError:
    return TryAgainLater("Another process is writing to the federation's database.")


def _is_writing(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("writing", False))
