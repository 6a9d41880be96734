"""Mutated series at the DICOM gate: each ends in a verdict, and no broken geometry is accepted.

A few hundred cases, and those that once found something; `scripts/fuzz_dicom` runs many, on real series too.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from support.fuzz import corpus, harness, oracle
from support.fuzz.case import Case
from support.fuzz.draft import MUTATIONS
from support.fuzz.elements import parse, serialise
from support.fuzz.trial import Outcome, run

from fedsite.dicom import geometry

SEED, CASES = 20, 200
KEPT = [
    Case.read(line)
    for line in Path(__file__).with_name("fuzz_seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]

RunAll = Callable[[Iterable[Case]], Iterator[Outcome]]


@pytest.fixture(scope="module")
def run_all() -> Iterator[RunAll]:
    """Runs cases on made series in a process that may crash."""
    with harness.workers(1, None) as (_, run_all):
        yield run_all


def _faulty(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    return {outcome.case: outcome.faults for outcome in outcomes if outcome.faults}


def test_clean_series_are_accepted(run_all: RunAll) -> None:
    traps = {"ct_tilted", "mr_4d", "localizer"}
    outcomes = list(run_all(Case(name, (), 2) for name in corpus.made()))
    assert _faulty(outcomes) == {}
    assert {outcome.case.split()[0] for outcome in outcomes if not outcome.accepted} == traps


def test_a_few_hundred_cases(run_all: RunAll) -> None:
    outcomes = list(run_all(Case.drawn(SEED, number, corpus.made()) for number in range(CASES)))
    assert _faulty(outcomes) == {}
    accepted = sum(outcome.accepted > 0 for outcome in outcomes)
    assert 0.1 < accepted / CASES < 0.6  # the mutations bite, and not so hard that nothing gets as far as the voxels


def test_kept_cases(run_all: RunAll) -> None:
    assert _faulty(run_all(KEPT)) == {}


def test_the_oracle_reads_past_a_character_set_that_is_none(tmp_path: Path) -> None:
    """pydicom alone looks up what is named, and stops at a null character."""
    image = pydicom.Dataset()
    image.add_new(0x00080005, "CS", "GB18030")
    image.Rows = 7
    image.save_as(tmp_path / "image", implicit_vr=True, little_endian=True)
    content = (tmp_path / "image").read_bytes()
    (tmp_path / "image").write_bytes(content.replace(b"GB18030", b"GB\x001803"))
    with pytest.raises(ValueError, match="null"):
        pydicom.dcmread(tmp_path / "image", force=True)
    assert oracle._dataset(str(tmp_path / "image"), "").Rows == 7


def test_a_case_is_made_again_from_its_line() -> None:
    for number in range(40):
        case = Case.drawn(1, number, corpus.made())
        assert Case.read(str(case)).files(corpus.made()) == case.files(corpus.made())


def test_every_mutation_changes_something() -> None:
    series = corpus.made()
    idle = [
        name
        for name in MUTATIONS
        if all(
            Case(own, (name,), number).files(series) == list(series[own])
            for number in range(8)
            for own in ("mr_enhanced_rle", "mr_jpeg_ls", "ct_deflated", "mr_diffusion")
        )
    ]
    assert idle == []


def test_files_are_written_back_as_they_were() -> None:
    for files in corpus.made().values():
        for content in files:
            written = serialise(parse(content))
            assert parse(written) == parse(content)
            assert written == content or parse(content).encoding.deflated


# That the oracle can fail: with a rule of the gate out of order, the case that it stands against is caught.


def _found(case: str) -> str:
    return "; ".join(run(Case.read(case), corpus.made()).faults)


def test_a_gate_that_overlooks_tilt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _found("ct_tilted nothing 2") == ""
    monkeypatch.setattr(geometry, "MAX_TILT_DEGREES", 90.0)
    assert "a tilt of 13.134 degrees" in _found("ct_tilted nothing 2")


def test_a_gate_that_overlooks_gaps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _found("ct one_gap 7") == ""
    monkeypatch.setattr(geometry, "_step_findings", lambda places: [])
    assert "steps from" in _found("ct one_gap 7")


def test_a_gate_that_shifts_a_volume_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    true = geometry.affine
    monkeypatch.setattr(geometry, "affine", lambda planes: true(planes) + np.eye(4, k=3))
    assert "the affine puts slices elsewhere" in _found("ct nothing 0")


def test_a_codec_that_crashes_is_named_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import os, fedsite.dicom.voxels.reading as pixels\n"
        "true = pixels.read_volume\n"
        "pixels.read_volume = lambda volume: os.abort() if volume.modality == 'CT' else true(volume)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with harness.workers(1, None) as (_, run_all):
        crashed, fine = run_all([Case("ct", (), 0), Case("mr_slope", (), 0)])
    assert crashed.faults == ["the process died: SIGABRT"]
    assert (fine.accepted, fine.faults) == (1, [])


def test_a_codec_that_hangs_is_named_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time, fedsite.dicom.voxels.reading as pixels\n"
        "true = pixels.read_volume\n"
        "pixels.read_volume = lambda volume: time.sleep(99) if volume.modality == 'CT' else true(volume)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with harness.workers(1, None) as (_, run_all):
        monkeypatch.setattr(harness, "HANG_SECONDS", 1.0)
        (hung,) = run_all([Case("ct", (), 0)])
    assert hung.faults == ["no answer within 1 s"]
