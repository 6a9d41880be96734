"""Backups on SQLite: whole whenever they are made, cheap to repeat, and restored to the same next model."""

import fcntl
import shutil
from pathlib import Path

import pytest
from support.federation import make, tensors

from fedsite.errors import DataNotFit, SourceMissing, TryAgainLater, UsageError
from fedsite.server.federation import open_federation
from fedsite.server.keeping import backups
from fedsite.server.rounds import rounds
from fedsite.server.rounds.reports import round_report
from fedsite.server.store.storage import MomentsRow

TWO = {"rounds": {"quorum": 2, "enough": 2, "deadline_seconds": 600}}
ADAM = {"server_adam": {"learning_rate": 0.05, "beta1": 0.8, "beta2": 0.9, "tau": 0.01}}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.fault(
    part="server",
    what="the server is restored from a backup in the middle of a round",
    where="after the first receipt",
    promised="the round ends with the same model",
)
def test_a_restored_federation_makes_the_same_model(bench, tmp_path: Path) -> None:
    """Of its second round, one update of which had come."""
    bench.open(count=2, **TWO, **ADAM)
    for site in "ab":
        bench.deliver(site, 1, tensors(1))
    rounds.advance(bench.federation)
    bench.deliver("a", 2, tensors(2))
    made = backups.backup(bench.federation, tmp_path / "backup")
    assert made == backups.Made(files=5, copied=5), "two models, two moments, one update"
    with bench.federation.database.reading() as session:
        row = session.get(MomentsRow, 1)
    assert {f"models/{row.first_sha256}", f"models/{row.second_sha256}"} <= files(tmp_path / "backup")
    assert backups.restore(tmp_path / "backup", tmp_path / "restored") == 2
    results = set()
    for folder in (bench.federation.folder, tmp_path / "restored"):
        bench.federation = open_federation(folder, bench.clock)
        bench.deliver("b", 2, tensors(3))
        rounds.advance(bench.federation)
        results.add(round_report(bench.federation, 2)["result_sha256"])
    assert len(results) == 1
    assert None not in results


def test_everything_in_a_backup_and_in_what_is_restored_is_private(bench, tmp_path: Path) -> None:
    bench.open(**TWO)
    backups.backup(bench.federation, tmp_path / "backup")
    backups.restore(tmp_path / "backup", tmp_path / "restored")
    for root in (tmp_path / "backup", tmp_path / "restored"):
        for path in [root, *root.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path


def test_the_next_one_copies_what_is_new_and_drops_what_is_no_longer_needed(bench, tmp_path: Path) -> None:
    to = tmp_path / "backup"
    bench.open(count=2, **TWO)
    upload = bench.deliver("a", 1, tensors(1))
    assert backups.backup(bench.federation, to).copied == 2
    assert f"updates/{upload.id}" in files(to)
    bench.deliver("b", 1, tensors(2))
    rounds.advance(bench.federation)
    assert backups.backup(bench.federation, to) == backups.Made(files=2, copied=1)
    assert backups.backup(bench.federation, to) == backups.Made(files=2, copied=0)
    assert not any(name.startswith("updates/") for name in files(to))


def test_an_update_that_goes_while_it_is_copied_is_no_longer_needed(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round ends between the rows and the files."""
    bench.open(count=2, **TWO)
    bench.deliver("a", 1, tensors(1))
    copy, before = backups._copy, []

    def ends(source: Path, target: Path, sha256: str) -> None:
        if not before:
            before.append(source)
            bench.deliver("b", 1, tensors(2))
            rounds.advance(bench.federation)
        copy(source, target, sha256)

    monkeypatch.setattr(backups, "_copy", ends)
    assert backups.backup(bench.federation, tmp_path / "backup").files == 2
    backups.restore(tmp_path / "backup", tmp_path / "restored")
    report = round_report(open_federation(tmp_path / "restored"), 1)
    assert report["status"] == "aggregated"


def test_a_backup_that_fails_leaves_the_one_before(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "backup"
    bench.open(count=2, **TWO)
    bench.deliver("a", 1, tensors(1))
    backups.backup(bench.federation, to)
    bench.deliver("b", 1, tensors(2))
    rounds.advance(bench.federation)

    def breaks(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backups, "_copy_keys", breaks)
    with pytest.raises(KeyboardInterrupt):
        backups.backup(bench.federation, to)
    monkeypatch.undo()
    backups.restore(to, tmp_path / "restored")
    report = round_report(open_federation(tmp_path / "restored"), 1)
    assert (report["status"], len(report["took_part"])) == ("open", 1)


def test_damage_is_not_carried_on(bench, tmp_path: Path) -> None:
    bench.open(**TWO)
    (model,) = (bench.federation.folder / "models").iterdir()
    good = model.read_bytes()
    backups.backup(bench.federation, tmp_path / "whole")
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DataNotFit, match="not what its digest says"):
        backups.backup(bench.federation, tmp_path / "backup")
    assert not (tmp_path / "backup" / "backup.db").exists()
    shutil.copy(model, tmp_path / "whole" / "models" / model.name)
    with pytest.raises(DataNotFit):
        backups.restore(tmp_path / "whole", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


@pytest.mark.fault(
    part="server",
    what="the server's database is damaged",
    where="its file is cut",
    promised="named; nothing is served from it",
)
@pytest.mark.parametrize("keep", [50, 5000])
def test_a_damaged_database_is_named(bench, tmp_path: Path, keep: int) -> None:
    backups.backup(bench.federation, tmp_path / "backup")
    database = tmp_path / "backup" / "backup.db"
    database.write_bytes(database.read_bytes()[:keep] + b"\xff" * 10_000)
    with pytest.raises(DataNotFit, match="database is damaged"):
        backups.restore(tmp_path / "backup", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_only_a_backup_of_its_own_is_written_over(bench, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    backups.backup(other, tmp_path / "others")
    for taken in (tmp_path / "others", other.folder, bench.federation.folder):
        before = files(taken)
        with pytest.raises(UsageError, match="something else"):
            backups.backup(bench.federation, taken)
        assert files(taken) == before
    other.database.close()


def test_a_backup_is_no_federation_and_a_folder_no_backup(bench, tmp_path: Path) -> None:
    backups.backup(bench.federation, tmp_path / "backup")
    with pytest.raises(SourceMissing, match="no federation"):
        open_federation(tmp_path / "backup")
    with pytest.raises(SourceMissing, match="no backup"):
        backups.restore(bench.federation.folder, tmp_path / "restored")
    with pytest.raises(UsageError, match="not empty"):
        backups.restore(tmp_path / "backup", bench.federation.folder)


def test_two_backups_into_one_folder_take_turns(bench, tmp_path: Path) -> None:
    backups.backup(bench.federation, tmp_path / "backup")
    with (tmp_path / "backup" / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TryAgainLater, match="Another backup"):
            backups.backup(bench.federation, tmp_path / "backup")
