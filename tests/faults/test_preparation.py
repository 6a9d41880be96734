"""Disks that fill up, sources that vanish and kills in the middle of preparation: the rerun completes, no half case.

What a kill leaves at the other places is in tests/integration/dataset/test_prepare_data.py and test_data.py.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.bids_maker import head, write_subject
from support.dicom_maker import names
from support.site import Site
from support.study_maker import write_dicom

from fedsite.dataset import cases, folder, manifest
from fedsite.errors import CannotWrite, SourceMissing
from fedsite.jobs.data import prepare as job

STUDIES = 5


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BIDS folder with five studies, each of which makes a case of about 250 kB."""
    place = tmp_path_factory.mktemp("faults") / "Ward-of-Qq"
    for number in range(STUDIES):
        write_subject(place, f"Qwyjibo{number}", head(number))
    return place


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "site")
    site.init(preparation={"spacing_mm": [3.0, 3.0, 3.0]})
    return site


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of the given size in kB, which grows when it is asked for again. Mounting needs root."""
    place = tmp_path / "disk"
    place.mkdir()

    def of_size(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + (",remount" if place.is_mount() else "")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.decode().strip()}")
        return place

    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    yield of_size
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def prepare(site: Site, source: Path, **options: object) -> job.Done:
    """What `fedsite prepare-data` does, in this process."""
    return job.prepare_data(site.config, job.Order(source, "stroke-dwi", **options))


def killed(site: Site, where: str, source: Path) -> None:
    """Runs the command and has it killed at `where` (see faulty.py)."""
    site.killed(where, "prepare-data", str(source), "--task", "stroke-dwi")


@contextmanager
def vanishing(place: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder that is gone, as when a share is unmounted, once so many studies are in the journal; then it is back."""
    record, gone = folder.PreparedFolder.record, place.with_name(f"{place.name}.gone")
    outcomes: list[folder.Outcome] = []

    def record_and_vanish(self: folder.PreparedFolder, outcome: folder.Outcome) -> None:
        record(self, outcome)
        outcomes.append(outcome)
        if len(outcomes) == after:
            place.rename(gone)

    with monkeypatch.context() as patch:
        patch.setattr(folder.PreparedFolder, "record", record_and_vanish)
        yield
    gone.rename(place)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses this process files over a size, as a full disk would. (Python ignores the signal for it.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def finished(out: Path) -> dict[str, int]:
    """The case files that the journal names, with the time when they were written."""
    with folder.hold(out) as held:
        known = held.outcomes().values()
    named = [out / outcome.file for outcome in known if isinstance(outcome, manifest.CaseRecord)]
    return {path.name: path.stat().st_mtime_ns for path in named}


def stored(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cases.stored(out / cases.FOLDER)}


def assert_complete(out: Path, before: dict[str, int], count: int = STUDIES) -> None:
    """Every case is whole, what was finished before was not done again, and nothing else lies about."""
    found = manifest.load(out)
    assert len(found.cases) == count
    for case in found.cases:
        cases.verify_case(out / case.file, case.sha256)
    assert before.items() <= stored(out).items()
    assert {path.name for path in (out / cases.FOLDER).iterdir()} == {Path(case.file).name for case in found.cases}
    assert sorted(path.name for path in out.iterdir()) == ["cases", "manifest.json", "report.html"]


def assert_names_nobody(error: Exception) -> None:
    assert "Qwyjibo" not in str(error)
    assert "Ward-of-Qq" not in str(error)


# --- the disk is full -------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="data",
    what="the disk is full while data are prepared",
    where="a small disk (tmpfs), as root",
    promised="what was done is kept, no half case; the next run ends it",
)
def test_a_full_disk_keeps_what_was_done(site: Site, source: Path, small_disk: Callable[[int], Path]) -> None:
    out = small_disk(800) / "data"
    with pytest.raises(CannotWrite, match="free some space") as error:
        prepare(site, source, out=out, workers=2)
    assert error.value.exit_code == 73
    assert_names_nobody(error.value)
    before = finished(out)
    assert 0 < len(before) < STUDIES
    assert not (out / manifest.FILE_NAME).exists()
    assert not list((out / cases.FOLDER).glob(".*")), "no half case"
    with pytest.raises(CannotWrite):
        prepare(site, source, out=out)

    small_disk(20_000)
    assert prepare(site, source, out=out).prepared.new == STUDIES
    assert_complete(out, before)


def test_a_disk_that_takes_all_but_the_report(site: Site, source: Path, small_disk: Callable[[int], Path]) -> None:
    """The set is whole all the same, and the report is made up for."""
    out = small_disk(20_000) / "data"
    prepare(site, source, out=out)
    (out / "report.html").unlink()
    small_disk(sum(path.stat().st_blocks for path in out.rglob("*")) // 2 + 12)
    with pytest.raises(CannotWrite):
        prepare(site, source, out=out)
    assert not list(out.glob(".*"))
    assert len(manifest.load(out).cases) == STUDIES
    small_disk(20_000)
    assert not prepare(site, source, out=out).prepared.changed
    assert_complete(out, {})


def test_a_case_that_the_disk_does_not_take(site: Site, source: Path) -> None:
    """As above where nothing can be mounted."""
    with largest_file(100_000), pytest.raises(CannotWrite) as error:
        prepare(site, source)
    assert_names_nobody(error.value)
    assert not list(site.data.rglob("*.tmp"))
    prepare(site, source)
    assert_complete(site.data, {})


# --- the source vanishes ----------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="data",
    what="a share with the images is unmounted in the middle",
    where="after the second study",
    promised="exit 66; what was done is kept, the next run ends it",
)
def test_a_source_that_vanishes_in_the_middle(
    site: Site, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "Ward-of-Qq"
    shutil.copytree(source, place)
    with vanishing(place, 2, monkeypatch), pytest.raises(SourceMissing) as error:
        prepare(site, place)
    assert error.value.exit_code == 66
    assert_names_nobody(error.value)
    assert not (site.data / manifest.FILE_NAME).exists()
    before = finished(site.data)
    assert len(before) == 2
    assert prepare(site, place).prepared.new == STUDIES
    assert_complete(site.data, before)


def test_dicom_and_masks_that_vanish_in_the_middle(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export, labels = tmp_path / "Ward-of-Qq", tmp_path / "Ward-of-Qq-masks"
    for number in range(3):
        write_dicom(export / str(number), labels, head(number), names())
    for place in (export, labels):
        with vanishing(place, 1, monkeypatch), pytest.raises(SourceMissing) as error:
            prepare(site, export, labels=labels)
        assert_names_nobody(error.value)
    before = finished(site.data)
    assert len(before) == 2
    prepare(site, export, labels=labels)
    assert_complete(site.data, before, 3)


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="data",
    what="kill -9 in the middle of a line of the journal, and of the report",
    where="half of a write",
    promised="no half case; the next run ends it",
)
def test_a_kill_in_the_middle_of_a_line_and_of_the_report(site: Site, source: Path) -> None:
    killed(site, "line:3", source)
    before = finished(site.data)
    assert (len(before), len(stored(site.data))) == (2, 3)
    killed(site, "report", source)
    assert len(manifest.load(site.data).cases) == STUDIES, "the set is whole before it is reported on"
    assert before.items() <= stored(site.data).items()
    assert not (site.data / "report.html").exists()
    assert not prepare(site, source).prepared.changed
    assert_complete(site.data, {})
