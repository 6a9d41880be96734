from pathlib import Path

import numpy as np
import pytest

from fedsite.dataset import dicom_source
from fedsite.dicom.checks import finding
from fedsite.dicom.model import Inventory, Volume


def volume(name: str, study: str = "e-a", **changes) -> Volume:
    known = {
        "id": name,
        "series": name,
        "study": study,
        "patient": f"p-{study[2:]}",
        "modality": "MR",
        "shape": (4, 5, 6),
        "affine": np.diag([30.0, 30.0, 30.0, 1.0]),
        "part": None,
        "b_value": 1000.0,
        "directionality": "ISOTROPIC",
        "image_type": ("ORIGINAL", "PRIMARY"),
        "scanner": "ACME",
        "verdict": "accepted",
        "findings": (),
        "keys": frozenset({f"uid-{name}", f"study-{study}", f"patient-{study}"}),
        "frames": (),
    }
    return Volume(**{**known, **changes})


@pytest.fixture
def collecting(source, tmp_path, task, pseudonyms, monkeypatch):
    def collecting(*volumes: Volume, masks: tuple[str, ...] = (), findings=()):
        labels = tmp_path / "labels"
        labels.mkdir(exist_ok=True)
        for mask in masks:
            (labels / mask).parent.mkdir(parents=True, exist_ok=True)
            (labels / mask).touch()
        inventory = Inventory(volumes, findings, len(volumes))
        monkeypatch.setattr(dicom_source, "scan", lambda source, pseudonyms, progress=None, **options: inventory)
        return dicom_source.collect(source, labels if masks else None, task, pseudonyms)

    return collecting


def chosen(collected):
    return [study.images[0].id for study in collected.studies]


def reasons(collected):
    return [study.reason.id for study in collected.excluded]


@pytest.mark.parametrize("mask", ["uid-s-1.nii.gz", "study-e-a_mask.nii", "deep/er/patient-e-a_lesion.nii.gz"])
def test_one_volume_and_its_mask(collecting, mask):
    collected = collecting(volume("s-1"), masks=(mask,))
    assert chosen(collected) == ["s-1"]
    assert collected.kind == "dicom"
    assert [file.name for file in collected.studies[0].mask.files] == [Path(mask).name]


def test_what_is_not_of_the_task_is_left_aside(collecting):
    collected = collecting(
        volume("s-1"),
        volume("s-2", b_value=0.0, directionality="NONE"),
        volume("s-3", b_value=None, directionality=None),
        volume("s-4", modality="CT"),
        volume("s-5", image_type=("DERIVED", "PRIMARY", "ADC")),
        volume("s-6", b_value=3000.0),
        masks=("patient-e-a.nii.gz",),
    )
    assert chosen(collected) == ["s-1"]
    assert not collected.findings


@pytest.mark.parametrize("mark", [{"directionality": "ISOTROPIC"}, {"image_type": ("DERIVED", "TRACEW")}])
def test_the_trace_goes_before_directions(collecting, mark):
    single = {"directionality": "DIRECTIONAL"}
    collected = collecting(
        volume("s-1", **single), volume("s-2", **{"directionality": None, **mark}), masks=("study-e-a.nii.gz",)
    )
    assert chosen(collected) == ["s-2"]
    assert not collected.studies[0].images[0].findings


def test_directions_alone_are_no_trace(collecting):
    collected = collecting(
        volume("s-1", directionality="DIRECTIONAL"),
        volume("s-2", directionality="DIRECTIONAL"),
        masks=("study-e-a.nii.gz",),
    )
    assert reasons(collected) == ["channel-missing"]
    assert "trace-missing" in {remark.id for remark in collected.excluded[0].findings}
    assert [remark.id for remark in collected.findings] == ["label-unpaired"]


def test_a_silent_image_is_taken_with_a_warning(collecting):
    collected = collecting(volume("s-1", directionality=None), masks=("uid-s-1.nii.gz",))
    assert [remark.id for remark in collected.studies[0].images[0].findings] == ["directionality-unknown"]


def test_several_candidates_are_named(collecting):
    collected = collecting(volume("s-1"), volume("s-2"), masks=("study-e-a.nii.gz",))
    assert reasons(collected) == ["several-candidates"]
    assert "s-1, s-2" in collected.excluded[0].reason.message


def test_a_mask_that_names_one_of_several_has_chosen(collecting):
    collected = collecting(volume("s-1"), volume("s-2"), masks=("uid-s-2.nii.gz",))
    assert chosen(collected) == ["s-2"]


def test_no_mask_no_case(collecting):
    assert reasons(collecting(volume("s-1"))) == ["label-missing"]
    collected = collecting(volume("s-1"), masks=("uid-s-9.nii.gz",))
    assert reasons(collected) == ["label-missing"]
    assert [remark.id for remark in collected.findings] == ["label-unpaired"]


def test_two_masks_for_one_volume(collecting):
    collected = collecting(volume("s-1"), masks=("uid-s-1.nii.gz", "patient-e-a_mask.nii.gz"))
    assert reasons(collected) == ["label-ambiguous"]


def test_one_mask_for_two_studies(collecting):
    keys = frozenset({"PAT7"})
    collected = collecting(volume("s-1", "e-a", keys=keys), volume("s-2", "e-b", keys=keys), masks=("PAT7_mask.nii",))
    assert reasons(collected) == ["label-contested", "label-contested"]
    assert all("s-1, s-2" in study.reason.message for study in collected.excluded)
    assert "PAT7" not in str(collected.excluded)


def test_why_the_right_image_was_refused_is_told(collecting):
    tilted = volume("s-1", verdict="refused", findings=(finding("tilt", "s-1", degrees=12.0),))
    other = volume("s-2", b_value=None, verdict="refused", findings=(finding("localizer", "s-2"),))
    rules = [remark.id for remark in collecting(tilted, other).excluded[0].findings]
    assert rules == ["channel-missing", "tilt"]


def test_lost_b_values_are_told(collecting):
    stripped = volume("s-1", b_value=None, findings=(finding("b-value-unknown", "s-1"),))
    rules = [remark.id for remark in collecting(stripped).excluded[0].findings]
    assert rules == ["channel-missing", "b-value-unknown"]


def test_warnings_of_the_scan_go_with_the_case(collecting):
    remark = finding("lossy-compression", "s-1")
    collected = collecting(volume("s-1", findings=(remark,)), masks=("uid-s-1.nii.gz",))
    assert collected.studies[0].images[0].findings == (remark,)


def test_findings_of_the_whole_source_are_kept(collecting):
    remark = finding("damaged-header", count=3)
    assert collecting(volume("s-1"), findings=(remark,)).findings == (remark,)
