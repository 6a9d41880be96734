"""From an older fedsite's tables to this one's: alembic's migrations, in one transaction, after a copy.

Nothing else imports alembic. A new federation gets its tables from `storage`, which a test holds to be what the
migrations lead to.
"""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config

from fedsite.errors import DataNotFit, UsageError
from fedsite.files import copy_database, fsync_folder
from fedsite.server.federation import DATABASE, check_revision, is_older, open_database
from fedsite.server.store.database import Database
from fedsite.server.store.storage import REVISION

MIGRATIONS = Path(__file__).parent.with_name("store") / "migrations"


def upgrade(folder: Path, *, dumped: bool = False) -> Path | None:
    """Brings a federation's database up to date; gives the copy of before that it has made of SQLite's.

    Nothing is done where nothing is to do. Every server of the federation must have been stopped. The copy of a
    PostgreSQL database is a person's business: raises UsageError unless it has been `dumped`; ConfigurationError for a
    newer database, or one that holds no federation; CannotWrite and DataNotFit where no copy can be made.
    """
    database = open_database(folder)
    found = database.revision()
    if not is_older(found):
        check_revision(found, str(folder))
        return None
    if database.is_postgresql and not dumped:
        raise UsageError(
            f"The upgrade from {found} to {REVISION} wants a copy of the PostgreSQL database first.",
            "Dump it (pg_dump --format=custom --file FILE DATABASE), then: fedsite server upgrade --dumped.",
        )
    copy = None if database.is_postgresql else _copied(folder)
    migrate(database)
    database.close()
    return copy


def migrate(database: Database) -> None:
    """Runs what is missing of the migrations: all of it, or nothing."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.writing() as session:
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "head")


def _copied(folder: Path) -> Path:
    """A copy that was read back, whole whatever else goes on."""
    copy = folder / f"federation.before-{REVISION}.db"
    draft = copy.with_suffix(".new")
    try:
        copy_database(folder / DATABASE, draft)
    except sqlite3.DatabaseError as error:
        raise DataNotFit("The federation's database is damaged.", "Restore it from a backup.") from error
    draft.rename(copy)
    fsync_folder(folder)
    return copy
