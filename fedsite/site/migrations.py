"""An older fedsite's `state.db` becomes this one's: a step for each version, all in one transaction, after a backup.

    backups/version-2.20261122T011200Z/   state.db, and records.head where there was one: put back, they are what was

A step changes tables, and what lies beside them. No record of ledger or audit is ever rewritten: their hashes hold. A
version is a number in the database (`pragma user_version`); the table `made_by` says which fedsite has made it so, and
stays as it is in all versions to come, so that an older fedsite can name the one that it takes.
"""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedsite import __version__
from fedsite.files import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    cannot_write,
    copy_database,
    fsync_folder,
    make_folder,
    write_atomically,
)
from fedsite.site import head

if TYPE_CHECKING:
    from fedsite.site.state import State

BACKUPS = "backups"
KEPT_VERSIONS = 3
_KEPT = re.compile(r"version-([0-9]+)\.[0-9TZ]+")
WITHOUT_HEAD = 1  # fedsite 0.1.0 remembered nowhere else where its chains ended
_MADE_BY = "create table made_by (fedsite text not null) strict"

Step = Callable[["State", sqlite3.Connection], None]
"""From one version to the next. The state is of no use for more than its heads until all steps are taken."""


def _remember_ends(state: "State", _database: sqlite3.Connection) -> None:
    if not state.is_copy:
        head.create(state.folder, state.heads())


def _say_who_made_it(_state: "State", database: sqlite3.Connection) -> None:
    database.execute(_MADE_BY)


STEPS: tuple[Step, ...] = (_remember_ends, _say_who_made_it)
"""The first leads from version 1 to version 2."""
VERSION = 1 + len(STEPS)


def fill(database: sqlite3.Connection, schema: str) -> None:
    """Makes the tables of this version in a new database, in one transaction."""
    said = f"insert into made_by values ('{__version__}'); pragma user_version = {VERSION}"  # noqa: S608 - our own
    database.executescript(f"begin; {schema} {_MADE_BY}; {said}; commit;")


def version_of(database: sqlite3.Connection) -> int:
    """The version of its tables; 0 where they are none of fedsite's."""
    return int(database.execute("pragma user_version").fetchone()[0])


def newer_than_this(database: sqlite3.Connection) -> tuple[str, str]:
    """What is to be said of a version that this fedsite does not know, and the mend."""
    found = None
    with suppress(sqlite3.Error):
        found = database.execute("select fedsite from made_by").fetchone()
    maker = str(found[0]) if found else ""
    maker = maker if maker.isprintable() and len(maker) < 40 else ""
    by = f", which fedsite {maker} has made" if maker else ""
    told = f"state.db has version {version_of(database)}{by}; this fedsite ({__version__}) knows {VERSION}."
    return told, f"Install {f'fedsite {maker}' if maker else 'the newer fedsite'} again; or see README, Upgrading."


def bring_up_to_date(state: "State", database: sqlite3.Connection) -> None:
    """All steps or none, once a backup is there and whole; said in the audit, and in a line to the operator.

    Nothing is done where another process has been first, perhaps a newer fedsite. Raises TryAgainLater while one is at
    it, CannotWrite, RecordsDamaged where the chains are not whole: damage is mended by `fedsite privacy recover`, not
    by a new version.
    """
    with state.transaction():
        before = version_of(database)
        if before >= VERSION:
            return
        kept = _backed_up(state, before)
        take_steps(state, database, before)
        state.audit("records upgraded", before=before, after=VERSION, fedsite=__version__, backup=kept.name)
    import logging  # for this one line in the life of a version; who shows a state folder may have no other ear

    logging.getLogger(__name__).warning(
        "This site's records were brought from version %d to %d. What they were before is in %s.", before, VERSION, kept
    )


def take_steps(state: "State", database: sqlite3.Connection, before: int) -> None:
    """The steps that lead from a version to this one. All or nothing is the caller's transaction."""
    for step in STEPS[before - 1 :]:
        step(state, database)
    database.execute("delete from made_by")
    database.execute("insert into made_by values (?)", (__version__,))
    database.execute(f"pragma user_version = {VERSION}")


def _backed_up(state: "State", version: int) -> Path:
    """The backup's folder; its name comes last, when all of it is durable and was read."""
    home = state.folder / BACKUPS
    draft, kept = home / ".new", home / f"version-{version}.{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    make_folder(home, PRIVATE_FOLDER)
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft, PRIVATE_FOLDER)
    try:
        copy_database(state.folder / "state.db", draft / "state.db")
        _require_whole(state, draft)
        with suppress(FileNotFoundError):
            write_atomically(draft / head.NAME, (state.folder / head.NAME).read_bytes(), PRIVATE_FILE)
        draft.rename(kept)
        fsync_folder(home)
        fsync_folder(state.folder)
        _remove_the_oldest(home, kept)
    except OSError as error:
        raise cannot_write(kept, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # where it got no name: nobody would come back for it
    return kept


def _require_whole(state: "State", copy: Path) -> None:
    """Its chains are recomputed, and end where those of the database do."""
    with closing(sqlite3.connect(copy / "state.db")) as database:
        type(state)(copy, database, state.heads()).verify()


def _remove_the_oldest(home: Path, made: Path) -> None:
    """Of each version the newest backup stays, and of those the three newest versions'; always the one just `made`.

    By their names: after a clock was put back, or an old version, it may be neither.
    """
    backups = {path: int(found[1]) for path in sorted(home.iterdir()) if (found := _KEPT.fullmatch(path.name))}
    newest = {version: path for path, version in backups.items()}
    kept = [made, *(newest[version] for version in sorted(newest)[-KEPT_VERSIONS:])]
    for path in backups:
        if path not in kept:
            shutil.rmtree(path)
