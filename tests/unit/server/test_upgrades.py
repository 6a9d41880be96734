"""Migrations: they lead to the tables of the models; older databases are brought up to date, newer ones refused."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from support import faulty
from support.faulty import Fault

from fedsite.errors import CannotWrite, ConfigurationError, DataNotFit, SourceMissing
from fedsite.server.federation import open_federation
from fedsite.server.keeping import backups, upgrades
from fedsite.server.store.database import Database, sqlite_url
from fedsite.server.store.storage import REVISION

NEXT = '''"""A later table."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{before}"


def upgrade() -> None:
    """One column more, and a fault where the test wants one."""
    op.add_column("federation", sa.Column("motto", sa.String(), nullable=True))
    op.execute("{statement}")
'''


def schema(path: Path) -> dict[str, object]:
    """Tables with their columns, keys and indexes: models and migrations may name constraints in different order."""
    with closing(sqlite3.connect(path)) as database:

        def ask(about: str, name: str) -> list[tuple[object, ...]]:
            return database.execute(f"PRAGMA {about}({name})").fetchall()

        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: (
                ask("table_info", name),
                sorted(row[2:] for row in ask("foreign_key_list", name)),
                sorted((row[2:], ask("index_info", row[1])) for row in ask("index_list", name)),
            )
            for name in names
        }


def later(folder: Path, monkeypatch: pytest.MonkeyPatch, statement: str = "SELECT 1") -> None:
    """fedsite, one release on."""
    shutil.copytree(upgrades.MIGRATIONS, folder)
    (folder / "versions" / "next.py").write_text(NEXT.format(before=REVISION, statement=statement))
    monkeypatch.setattr(upgrades, "MIGRATIONS", folder)
    for module in ("keeping.upgrades", "federation"):
        monkeypatch.setattr(f"fedsite.server.{module}.REVISION", "9999")


def motto(path: Path) -> list[tuple[str, None]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT name, motto FROM federation").fetchall()


def test_migrations_lead_to_the_tables_of_the_models(tmp_path: Path) -> None:
    made, migrated = (Database(sqlite_url(tmp_path / name)) for name in ("made", "migrated"))
    made.create(lambda session: None)
    upgrades.migrate(migrated)
    assert migrated.revision() == made.revision() == REVISION
    assert schema(tmp_path / "migrated") == schema(tmp_path / "made")


def test_the_revision_is_the_last_of_one_chain() -> None:
    config = Config()
    config.set_main_option("script_location", str(upgrades.MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [REVISION]
    chain = [one.revision for one in scripts.walk_revisions()]
    assert chain == sorted(chain, reverse=True), "their order is that of their names"


def test_an_older_database_waits_for_a_person_and_is_then_brought_up_to_date(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bench.federation.folder
    later(tmp_path / "migrations", monkeypatch)
    with pytest.raises(ConfigurationError, match="older fedsite's") as told:
        open_federation(folder)
    assert "fedsite server upgrade" in told.value.mend
    copy = upgrades.upgrade(folder)
    assert motto(folder / "federation.db") == [(bench.federation.name, None)]
    assert copy is not None
    assert copy.stat().st_mode & 0o777 == 0o600
    with pytest.raises(sqlite3.OperationalError, match="motto"):
        motto(copy)
    open_federation(folder).database.close()
    assert upgrades.upgrade(folder) is None, "once is enough"


def test_a_migration_that_fails_leaves_what_was(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.federation.folder
    before = schema(folder / "federation.db")
    later(tmp_path / "migrations", monkeypatch, statement="INSERT INTO nowhere VALUES (1)")
    with pytest.raises(Exception, match="nowhere"):
        upgrades.upgrade(folder)
    assert schema(folder / "federation.db") == before
    assert bench.federation.database.revision() == REVISION


@pytest.mark.fault(
    part="records",
    what="kill -9, or a full disk, while an older federation's database is brought up to date",
    where="`fedsite server upgrade`, its copy and its commit",
    promised="the old tables or the new ones, whole, and the copy; the same command again ends it",
)
@pytest.mark.parametrize(
    ("what", "pattern", "code"),
    [
        ("full", "create *before*", CannotWrite.exit_code),
        ("kill-after", "fsync *before*", -9),
        ("kill-before", "commit *", -9),
        ("kill-after", "commit *", -9),
    ],
)
def test_an_upgrade_that_is_cut_off_is_ended_by_the_next(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, pattern: str, code: int
) -> None:
    folder = bench.federation.folder
    before = schema(folder / "federation.db")
    bench.federation.database.close()
    later(tmp_path / "migrations", monkeypatch)
    assert faulty.forked(Fault(what, pattern=pattern), lambda: upgrades.upgrade(folder)) == code
    done = (what, pattern) == ("kill-after", "commit *")
    assert (schema(folder / "federation.db") == before) is not done
    assert (upgrades.upgrade(folder) is None) is done
    assert motto(folder / "federation.db") == [(bench.federation.name, None)]
    assert schema(folder / f"federation.before-{upgrades.REVISION}.db") == before


def test_a_damaged_database_is_not_upgraded(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(tmp_path / "migrations", monkeypatch)

    def damaged(source: Path, target: Path) -> None:
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(upgrades, "copy_database", damaged)
    with pytest.raises(DataNotFit, match="damaged"):
        upgrades.upgrade(bench.federation.folder)
    assert bench.federation.database.revision() == REVISION


def test_an_older_backup_is_restored_and_brought_up_to_date(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup(bench.federation, tmp_path / "backup")
    later(tmp_path / "migrations", monkeypatch)
    backups.restore(tmp_path / "backup", tmp_path / "restored")
    assert motto(tmp_path / "restored" / "federation.db") == [(bench.federation.name, None)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "a newer fedsite's"),
        ("DROP TABLE alembic_version", "no migrations"),  # as 0.1.0 has left it
        ("DROP TABLE alembic_version; DROP TABLE federation", "holds no federation"),
    ],
)
def test_what_no_migration_leads_from_is_refused(bench, tmp_path: Path, change: str, told: str) -> None:
    backups.backup(bench.federation, tmp_path / "backup")
    for path in (bench.federation.folder / "federation.db", tmp_path / "backup" / "backup.db"):
        with closing(sqlite3.connect(path)) as database:
            database.executescript(change)
    for refused in (
        lambda: open_federation(bench.federation.folder),
        lambda: upgrades.upgrade(bench.federation.folder),
        lambda: backups.restore(tmp_path / "backup", tmp_path / "restored"),
    ):
        with pytest.raises(ConfigurationError) as refusal:
            refused()
        assert told in str(refusal.value)
    with pytest.raises(SourceMissing):
        upgrades.upgrade(tmp_path)
