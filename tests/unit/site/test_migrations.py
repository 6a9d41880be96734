"""An older fedsite's records are brought up to date, all of them or none, with a backup; a newer one's are refused."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import faulty
from support.faulty import Fault
from support.records import alter

from fedsite import __version__
from fedsite.errors import CannotWrite, RecordsDamaged, TryAgainLater
from fedsite.site import head, migrations
from fedsite.site import state as module
from fedsite.site.migrations import BACKUPS, VERSION
from fedsite.site.state import NotOurs, State

OLDER = range(1, VERSION)
BEFORE = {"ledger": 3, "audit": 4}
AFTER = {"ledger": 3, "audit": 5}
MOST_STEPS = 60


def make_older(folder: Path, version: int) -> Path:
    """A state folder as an older fedsite has left it."""
    with State.create(folder) as state:
        state.audit("initialised")
        for number in range(3):
            state.append("ledger", {"kind": "reserved", "round": number})
    with closing(sqlite3.connect(folder / "state.db")) as database:
        if version < 3:
            database.execute("drop table made_by")
        database.execute(f"pragma user_version = {version}")
        database.commit()
    if version < 2:
        (folder / head.NAME).unlink()
    return folder


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    home = tmp_path_factory.mktemp("older")
    return {version: make_older(home / f"v{version}", version) for version in OLDER}


@pytest.fixture
def older(templates: dict[int, Path], tmp_path: Path) -> Callable[[int], Path]:
    def copied(version: int) -> Path:
        folder = tmp_path / "state"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(templates[version], folder)
        folder.chmod(0o700)
        return folder

    return copied


def opened(folder: Path) -> None:
    State.open(folder).close()


def chains(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All records as stored."""
    with closing(sqlite3.connect(path)) as database:
        return {chain: database.execute(f"select * from {chain}").fetchall() for chain in ("ledger", "audit")}


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, but for what SQLite keeps while a database is open."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def require_whole(folder: Path, rows: dict[str, list[tuple[object, ...]]]) -> None:
    """The records of before are there byte for byte, one more says what happened; every backup can be put back."""
    with State.open(folder) as state:
        assert state.verify() == AFTER
        assert state.last("audit").body["after"] == VERSION
    found = chains(folder / "state.db")
    assert found["ledger"] == rows["ledger"]
    assert found["audit"][:-1] == rows["audit"]
    kept = list((folder / BACKUPS).glob("version-*"))
    assert len(kept) == 1
    assert chains(kept[0] / "state.db") == rows


@pytest.mark.parametrize("version", OLDER)
def test_older_records_are_brought_up_to_date_with_a_backup(
    older: Callable[[int], Path], version: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = older(version)
    rows, before = chains(folder / "state.db"), files(folder)
    previous = os.umask(0)
    try:
        with State.open(folder) as state:
            told = state.last("audit").body
    finally:
        os.umask(previous)
    require_whole(folder, rows)
    kept = folder / BACKUPS / told["backup"]
    assert (told["event"], told["before"], told["after"]) == ("records upgraded", version, VERSION)
    assert told["fedsite"] == __version__
    assert [record.getMessage() for record in caplog.records] == [
        f"This site's records were brought from version {version} to {VERSION}. What they were before is in {kept}."
    ]
    assert kept.name.startswith(f"version-{version}.20")
    for path in (folder / BACKUPS, kept, *kept.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (kept / head.NAME).exists() is (version > 1)
    assert version == 1 or (kept / head.NAME).read_bytes() == before[head.NAME]
    with State.open(folder):
        assert len(list((folder / BACKUPS).iterdir())) == 1, "once is enough"
    with closing(sqlite3.connect(folder / "state.db")) as database:
        for change in ("update ledger set body = ''", "delete from audit"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(change)


def test_a_backup_that_is_put_back_is_what_was(older: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As README says it, for the fedsite of before."""
    folder = older(2)
    rows = chains(folder / "state.db")
    with State.open(folder) as state:
        kept = folder / BACKUPS / state.last("audit").body["backup"]
    for path in kept.iterdir():
        shutil.copy(path, folder)
    monkeypatch.setattr(migrations, "VERSION", 2)
    with State.open(folder) as back:
        assert back.verify() == BEFORE
    assert chains(folder / "state.db") == rows


@pytest.mark.parametrize("version", OLDER)
def test_who_only_looks_changes_nothing(older: Callable[[int], Path], version: int) -> None:
    folder = older(version)
    before = files(folder)
    with State.open(folder, looking=True) as state:
        assert state.verify() == BEFORE
        assert state.is_copy
        state.audit("policy")
        state.put_round("f", 1, "offered", {})
        assert state.verify()["audit"] == BEFORE["audit"] + 2, "into the copy"
    assert files(folder) == before
    require_whole(folder, chains(folder / "state.db"))


def test_who_looks_hears_of_a_lost_end(older: Callable[[int], Path]) -> None:
    folder = older(2)
    alter(folder / "state.db", "delete from audit where sequence = 4")
    with State.open(folder, looking=True) as state, pytest.raises(RecordsDamaged, match="Record 4 of the audit is mis"):
        state.verify()


def test_damaged_records_are_not_upgraded(older: Callable[[int], Path]) -> None:
    """Their mend is `privacy recover`, which wants them as they are."""
    folder = older(1)
    alter(folder / "state.db", "update ledger set time = 'x' where sequence = 2")
    with pytest.raises(RecordsDamaged, match="Record 2 of the ledger was altered") as told:
        State.open(folder)
    assert "privacy recover" in told.value.mend
    with closing(sqlite3.connect(folder / "state.db")) as database:
        assert migrations.version_of(database) == 1


def test_a_newer_database_is_refused_by_the_name_of_its_fedsite(state: State) -> None:
    state._database.execute(f"pragma user_version = {VERSION + 1}")
    state._database.execute("update made_by set fedsite = '7.1'")
    for looking in (False, True):
        with pytest.raises(NotOurs, match=rf"version {VERSION + 1}, which fedsite 7\.1 has made; this") as refused:
            State.open(state.folder, looking=looking)
        assert refused.value.exit_code == 74
        assert refused.value.mend.startswith("Install fedsite 7.1 again")


@pytest.mark.parametrize(
    "change", ["drop table made_by", "delete from made_by", "update made_by set fedsite = char(7)"]
)
def test_a_newer_database_that_does_not_say_whose_it_is_is_refused_too(state: State, change: str) -> None:
    state._database.execute("pragma user_version = 99")
    state._database.execute(change)
    with pytest.raises(NotOurs, match="version 99; this fedsite") as refused:
        State.open(state.folder)
    assert refused.value.mend.startswith("Install the newer fedsite again")


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="records",
    what="kill -9, power cut, bad or full disk while an older fedsite's records are brought up to date",
    where="each file, fsync, rename and commit of the upgrade, in turn",
    promised="the old records or the new ones, whole; the next run ends it, and the backup can be put back",
)
@pytest.mark.parametrize(
    "what",
    [
        pytest.param("kill-after", marks=pytest.mark.exhaustive),
        "power-cut",
        pytest.param("eio", marks=pytest.mark.exhaustive),
        "full",
    ],
)
def test_a_fault_at_each_step(older: Callable[[int], Path], what: str) -> None:
    codes: list[int] = []
    for number in range(1, MOST_STEPS):
        folder = older(1)
        rows = chains(folder / "state.db")
        codes.append(faulty.forked(Fault(what, number), partial(opened, folder)))
        with closing(sqlite3.connect(folder / "state.db")) as database:
            found = migrations.version_of(database)
        assert found in (1, VERSION)
        assert found == 1 or list((folder / BACKUPS).glob("version-*")), "upgraded without a backup"
        require_whole(folder, rows)
        if codes[-1] == 0:
            break
    assert len(codes) > 5
    assert set(codes[:-1]) == ({CannotWrite.exit_code} if what in faulty.FAILS else {-9})


@pytest.mark.fault(
    part="records",
    what="two runs find an older fedsite's records at once",
    where="a second process holds the database for longer than a run waits",
    promised="told to come back (exit 75); they are upgraded once",
)
def test_a_second_process_waits_or_comes_back(older: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = older(1)
    rows = chains(folder / "state.db")
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(folder / "state.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(TryAgainLater):
            State.open(folder)
        other.execute("rollback")
    monkeypatch.setattr(module, "BUSY_SECONDS", 60)
    threads = [threading.Thread(target=opened, args=[folder]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    require_whole(folder, rows)


def test_where_no_backup_can_be_made_nothing_is_changed(older: Callable[[int], Path]) -> None:
    folder = older(2)
    before = files(folder)
    (folder / BACKUPS).write_bytes(b"somebody's")
    with pytest.raises(CannotWrite):
        State.open(folder)
    assert files(folder) == before | {BACKUPS: b"somebody's"}


def test_a_copy_that_is_not_what_was_copied_stops_it(
    older: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that lies: the backup is read before it is relied on."""
    folder = older(2)
    copied = migrations.copy_database

    def lying(source: Path, target: Path) -> None:
        copied(source, target)
        alter(target, "delete from audit where sequence = 4")

    monkeypatch.setattr(migrations, "copy_database", lying)
    with pytest.raises(RecordsDamaged, match="Record 4 of the audit is missing"):
        State.open(folder)
    with closing(sqlite3.connect(folder / "state.db")) as database:
        assert migrations.version_of(database) == 2
    assert list((folder / BACKUPS).iterdir()) == []


def test_of_backups_the_newest_of_each_version_stays_and_not_for_ever(
    older: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = older(2)
    others = {"version-2-mine", "notes"}
    for name in ("version-2.20250101T000000000000Z", "version-1.20250101T000000000000Z", "version-10.2025", *others):
        (folder / BACKUPS / name).mkdir(parents=True)
    with State.open(folder) as state:
        made = state.last("audit").body["backup"]
    found = {path.name for path in (folder / BACKUPS).iterdir()}
    assert found == {made, "version-1.20250101T000000000000Z", "version-10.2025", *others}
    monkeypatch.setattr(migrations, "KEPT_VERSIONS", 2)
    migrations._remove_the_oldest(folder / BACKUPS, folder / BACKUPS / made)
    assert {path.name for path in (folder / BACKUPS).iterdir()} == {made, "version-10.2025", *others}


@pytest.mark.parametrize("others", [["2.2999"], ["3.2025", "4.2025", "5.2025"]], ids=["clock", "version"])
def test_the_backup_just_made_stays_after_a_clock_or_a_version_was_put_back(
    older: Callable[[int], Path], others: list[str]
) -> None:
    folder = older(2)
    for name in others:
        (folder / BACKUPS / f"version-{name}").mkdir(parents=True)
    with State.open(folder) as state:
        assert (folder / BACKUPS / state.last("audit").body["backup"] / "state.db").is_file()


def test_a_folder_may_have_any_name(older: Callable[[int], Path], tmp_path: Path) -> None:
    folder = older(1).rename(tmp_path / "50% #1?mode=x")
    with State.open(folder) as state:
        assert state.verify() == AFTER


@pytest.mark.parametrize("version", OLDER)
def test_who_looks_while_another_process_upgrades_sees_the_records(
    older: Callable[[int], Path], version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = older(version)
    copy_of = State._copy_of

    def late(*arguments: Any) -> State:
        monkeypatch.setattr(State, "_copy_of", copy_of)
        opened(folder)
        return copy_of(*arguments)

    monkeypatch.setattr(State, "_copy_of", late)
    with State.open(folder, looking=True) as state:
        assert state.verify() == AFTER


def test_who_looks_while_another_process_writes_hears_of_no_loss(
    older: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older fedsite may be at work still."""
    folder = older(2)
    read = head.read

    def written_meanwhile(*arguments: Any) -> Any:
        ends = read(*arguments)
        with (
            closing(sqlite3.connect(folder / "state.db", isolation_level=None)) as database,
            monkeypatch.context() as at,
        ):
            at.setattr(head, "read", read)
            State(folder, database).audit("written meanwhile")
        return ends

    monkeypatch.setattr(head, "read", written_meanwhile)
    with State.open(folder, looking=True) as state:
        monkeypatch.undo()
        assert state.verify() == AFTER


def test_a_newer_fedsite_that_comes_first_is_not_undone(
    older: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = older(2)
    upgrade = migrations.bring_up_to_date

    def late(state: State, database: sqlite3.Connection) -> None:
        with closing(sqlite3.connect(folder / "state.db", isolation_level=None)) as newer:
            newer.execute("pragma user_version = 99")
        upgrade(state, database)

    monkeypatch.setattr(migrations, "bring_up_to_date", late)
    with pytest.raises(NotOurs, match="version 99"):
        State.open(folder)
    with closing(sqlite3.connect(folder / "state.db")) as database:
        assert migrations.version_of(database) == 99
