import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.bids_maker import Head, dim_rim, head, write_nifti, write_subject

from fedsite.dataset import cases, convert, manifest, prepare
from fedsite.dataset.prepare import NothingUsable, Request
from fedsite.dataset.rules import finding
from fedsite.dataset.sources import collect
from fedsite.errors import CannotWrite, SourceMissing, UsageError
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks import stroke_dwi

SPACING = (4.0, 4.0, 4.0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def request_of(task):
    return lambda **changes: Request(**{"task": task, "spacing_mm": SPACING, **changes})


@pytest.fixture
def preparing(source, out, task, pseudonyms, request_of):
    def preparing(**changes):
        return prepare.prepare(collect(source, None, task, pseudonyms), out, request_of(**changes), pseudonyms)

    return preparing


@pytest.fixture
def converted(monkeypatch) -> list[str]:
    """The studies that were really done, in order."""
    done = []
    original = convert.prepare_study

    def counted(work, settings):
        done.append(work.study.id)
        return original(work, settings)

    monkeypatch.setattr("fedsite.dataset.pool.prepare_study", counted)
    return done


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def masked(content: Head, mask: np.ndarray) -> Head:
    return dataclasses.replace(content, mask=mask)


def rules(study) -> list[str]:
    return [remark.id for remark in study.findings]


def test_a_study_becomes_a_case(source, out, preparing, pseudonyms):
    content = head(1)
    write_subject(source, "one", content)
    prepared = preparing()
    assert (prepared.new, prepared.unchanged, prepared.removed) == (1, 0, 0)
    record = manifest.load(out).cases[0]
    assert record.patient == pseudonyms.patient("one", "bids")
    assert record.input_state == "whole-head"
    assert record.lesion_ml == pytest.approx(content.mask.sum() * 4 * 4 * 6 / 1000)
    assert record.source_shape == content.image.shape
    assert record.source_spacing_mm == (4, 4, 6)
    cases.verify_case(out / record.file, record.sha256)
    case = cases.open_case(out / record.file)
    assert case.label.shape == record.shape
    assert set(np.unique(case.label)) == {0, 1}
    # The lesion is where the image is brightest, so image and mask went through the same geometry.
    assert case.image[0][case.label > 0].mean() > case.image[0][case.label == 0].mean() + 3


def test_the_case_is_what_the_tasks_own_transforms_give(source, out, preparing, task):
    import torch
    from monai.data.meta_tensor import MetaTensor

    from fedsite.tasks import registry

    content = head(1)
    write_subject(source, "one", content)
    preparing()
    case = cases.open_case(out / manifest.load(out).cases[0].file)
    affine = torch.from_numpy(content.affine)
    expected = registry.module(task.name).preprocessing(task, SPACING)(
        {
            "image": MetaTensor(torch.from_numpy(content.image[None]), affine=affine),
            "label": MetaTensor(torch.from_numpy(content.mask[None]), affine=affine),
        }
    )
    np.testing.assert_array_equal(case.image, expected["image"].numpy().astype(np.float16))
    np.testing.assert_array_equal(case.label, expected["label"][0].numpy().astype(np.uint8))


def test_a_second_run_does_nothing_and_changes_no_byte(source, out, preparing, converted):
    for subject in range(3):
        write_subject(source, f"{subject}", head(subject))
    preparing()
    before = everything(out)
    assert len(converted) == 3
    prepared = preparing()
    assert (prepared.new, prepared.unchanged) == (0, 3)
    assert len(converted) == 3
    assert everything(out) == before


def test_only_what_changed_is_done_again(source, out, preparing, converted):
    for subject in range(3):
        write_subject(source, f"{subject}", head(subject))
    before = {record.id: record for record in preparing().manifest.cases}
    image, mask = write_subject(source, "1", head(7))
    for path in (image, mask):
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    shutil.rmtree(source / "sub-2")
    shutil.rmtree(source / "derivatives" / "sub-2")
    write_subject(source, "3", head(3))
    prepared = preparing()
    assert (prepared.new, prepared.unchanged, prepared.removed) == (2, 1, 1)
    assert len(converted) == 5
    after = {record.id: record for record in prepared.manifest.cases}
    same = [name for name in before.keys() & after.keys() if before[name] == after[name]]
    assert len(same) == 1
    assert {path.name for path in (out / "cases").iterdir()} == {Path(record.file).name for record in after.values()}


def test_a_changed_sidecar_counts(source, preparing):
    image, _ = write_subject(source, "one", head(), sidecar={})
    assert rules(preparing().manifest.cases[0]) == ["b-value-assumed"]
    image.with_name("sub-one_dwi.json").write_text('{"DiffusionBValue": 900}')
    record = preparing().manifest.cases[0]
    assert (record.b_value, rules(record)) == (900, [])


def test_the_same_source_by_another_spelling_is_the_same(
    source, out, preparing, task, pseudonyms, request_of, converted, monkeypatch
):
    write_subject(source, "one", head())
    first = preparing().manifest
    monkeypatch.chdir(source.parent)
    again = prepare.prepare(collect(Path("source"), None, task, pseudonyms), out, request_of(), pseudonyms)
    assert again.manifest == first
    assert len(converted) == 1


def test_other_settings_prepare_anew(source, preparing, converted):
    write_subject(source, "one", head())
    preparing()
    assert preparing(spacing_mm=(5.0, 5.0, 5.0)).new == 1
    assert len(converted) == 2


def test_another_version_prepares_anew(source, preparing, converted, monkeypatch):
    write_subject(source, "one", head())
    preparing()
    monkeypatch.setattr(prepare, "__version__", "99.0")
    assert preparing().manifest.fedsite == "99.0"
    assert len(converted) == 2


def test_the_split_follows_the_fraction_without_work(source, preparing, converted):
    write_subject(source, "one", head())
    assert preparing(validation_fraction=0).manifest.cases[0].split == "training"
    prepared = preparing(validation_fraction=1)
    assert prepared.manifest.cases[0].split == "validation"
    assert "no-training-patient" in [remark.id for remark in prepared.manifest.findings]
    assert len(converted) == 1


def test_a_set_without_validation_says_so(source, preparing, pseudonyms):
    write_subject(source, "one", head())
    fraction = pseudonyms.fraction(pseudonyms.patient("one", "bids")) / 2
    (remark,) = preparing(validation_fraction=fraction).manifest.findings
    assert (remark.id, remark.severity) == ("no-validation-patient", "warning")


def test_a_doubtful_state_is_told(source, preparing):
    write_subject(source, "one", dim_rim(head(stripped=True)))
    case = preparing().manifest.cases[0]
    assert case.input_state == "skull-stripped"
    assert "input-state-doubtful" in rules(case)


def test_the_split_is_the_patients_own_and_nobody_elses(source, task, pseudonyms, out, request_of, tmp_path):
    for subject in range(6):
        write_subject(source, f"{subject}", head(subject), session="a")
    write_subject(source, "0", head(7), session="b")
    together = prepare.check(collect(source, None, task, pseudonyms), request_of(validation_fraction=0.5), pseudonyms)
    splits = {}
    for record in together.manifest.cases:
        assert splits.setdefault(record.patient, record.split) == record.split
        expected = "validation" if pseudonyms.fraction(record.patient) < 0.5 else "training"
        assert record.split == expected
    assert len(splits) == 6
    alone = tmp_path / "alone"
    write_subject(alone, "3", head(3), session="a")
    single = prepare.check(collect(alone, None, task, pseudonyms), request_of(validation_fraction=0.5), pseudonyms)
    record = single.manifest.cases[0]
    assert record.split == splits[record.patient]


def test_a_case_depends_on_its_own_patient_alone(source, task, pseudonyms, request_of, out, tmp_path):
    """No cohort statistics (privacy.md): with others around, the case's bytes are the same."""
    write_subject(source, "one", head(1))
    prepare.prepare(collect(source, None, task, pseudonyms), out, request_of(), pseudonyms)
    alone = manifest.load(out).cases[0]
    for subject in range(3):
        content = head(subject + 10)
        write_subject(source, f"other{subject}", dataclasses.replace(content, image=content.image * 50))
    crowd = tmp_path / "crowd"
    prepare.prepare(collect(source, None, task, pseudonyms), crowd, request_of(), pseudonyms)
    assert alone.sha256 in {record.sha256 for record in manifest.load(crowd).cases}


def test_workers_change_nothing(source, out, tmp_path, task, pseudonyms, request_of):
    for subject in range(3):
        write_subject(source, f"{subject}", head(subject))
    collected = collect(source, None, task, pseudonyms)
    prepare.prepare(collected, out, request_of(workers=1), pseudonyms)
    several = tmp_path / "several"
    done = []
    prepare.prepare(collected, several, request_of(workers=2), pseudonyms, lambda *counts: done.append(counts))
    assert everything(out) == everything(several)
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_a_worker_that_the_system_ends_is_no_bug(source, out, task, pseudonyms, request_of, monkeypatch):
    """What ends the process that unpickles it stands in for a study that takes all memory."""
    from fedsite.errors import TryAgainLater

    for subject in range(2):
        write_subject(source, f"{subject}", head(subject))
    collected = collect(source, None, task, pseudonyms)
    deadly = tuple(
        dataclasses.replace(study, images=(dataclasses.replace(study.images[0], origin=Deadly()),))
        for study in collected.studies
    )
    with pytest.raises(TryAgainLater, match="worker"):
        prepare.prepare(dataclasses.replace(collected, studies=deadly), out, request_of(workers=2), pseudonyms)
    assert not (out / "manifest.json").exists()


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


# --- what is refused, each planted ----------------------------------------------------------------------------------


def plant_image_not_finite(content: Head) -> Head:
    content.image[3, 3, 3] = np.nan
    return content


def plant_image_constant(content: Head) -> Head:
    return dataclasses.replace(content, image=np.full_like(content.image, 5))


def plant_values_unknown(content: Head) -> Head:
    return masked(content, content.mask * 3)


def plant_stored_as_255(content: Head) -> Head:
    return masked(content, content.mask * 255)


def plant_label_not_finite(content: Head) -> Head:
    return masked(content, np.where(content.mask, np.nan, 0).astype(np.float32))


PLANTED = {
    "image-not-finite": plant_image_not_finite,
    "image-constant": plant_image_constant,
    "label-values-unknown": plant_values_unknown,
    "label-stored-as-255": plant_stored_as_255,
    "label-not-finite": plant_label_not_finite,
}


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_fault_leaves_one_study_out(source, out, preparing, rule, converted):
    write_subject(source, "good", head(0))
    write_subject(source, "bad", PLANTED[rule](head(1)))
    found = preparing().manifest
    assert len(found.cases) == 1
    assert rules(found.excluded[0]) == [rule]
    assert found.excluded[0].reason.mend
    assert len(everything(out / "cases")) == 1
    assert preparing().manifest == found
    assert len(converted) == 2, "a study that was left out and did not change is not read again"


@pytest.mark.parametrize(
    ("rule", "move"),
    [
        ("label-other-grid", lambda affine: affine + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4])),
        ("label-grid-rounded", lambda affine: affine + np.array([[0, 0, 0, 0.05], [0] * 4, [0] * 4, [0] * 4])),
    ],
)
def test_a_mask_on_another_grid(source, preparing, rule, move):
    write_subject(source, "good", head(0))
    content = head(1)
    _, mask = write_subject(source, "moved", content)
    write_nifti(mask, content.mask, move(content.affine))
    found = preparing().manifest
    if rule == "label-other-grid":
        assert [rules(study) for study in found.excluded] == [[rule]]
    else:
        assert sorted(rules(record) for record in found.cases) == [[], [rule]]


def test_a_mask_of_another_size(source, preparing):
    write_subject(source, "good", head(0))
    content = head(1)
    write_subject(source, "cut", masked(content, content.mask[:, :, :-1]))
    assert rules(preparing().manifest.excluded[0]) == ["label-other-grid"]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("cut", [0.6, 0.0])
def test_a_truncated_file(source, preparing, which, cut):
    write_subject(source, "good", head(0))
    path = write_subject(source, "cut", head(1))[which]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    expected = "image-unreadable" if which == 0 else "label-unreadable"
    assert expected in rules(preparing().manifest.excluded[0])


def test_what_could_not_be_read_is_tried_again(source, preparing, monkeypatch):
    from fedsite.dataset import nifti
    from fedsite.errors import DataNotFit

    write_subject(source, "one", head(0))
    image, _ = write_subject(source, "two", head(1))
    read = nifti.read_voxels

    def broken_disk(path):
        if path == image:
            raise DataNotFit("The file's voxels cannot be read.")
        return read(path)

    monkeypatch.setattr(nifti, "read_voxels", broken_disk)
    assert len(preparing().manifest.excluded) == 1
    monkeypatch.setattr(nifti, "read_voxels", read)
    assert len(preparing().manifest.cases) == 2


def test_an_empty_mask_is_kept_with_a_warning(source, preparing):
    content = head()
    write_subject(source, "one", masked(content, np.zeros_like(content.mask)))
    record = preparing().manifest.cases[0]
    assert rules(record) == ["label-empty"]
    assert record.lesion_ml == 0


def test_a_lesion_smaller_than_a_prepared_voxel_is_told(source, preparing):
    content = head()
    mask = np.zeros_like(content.mask)
    mask[19, 21, 8] = 1
    write_subject(source, "one", masked(content, mask))
    record = preparing(spacing_mm=(10.0, 10.0, 10.0)).manifest.cases[0]
    assert rules(record) == ["lesion-tiny", "label-lost"]
    assert record.dice_ceiling == 0


def test_values_that_float16_cannot_hold(source, task, pseudonyms, request_of, monkeypatch):
    write_subject(source, "one", head())
    study = collect(source, None, task, pseudonyms).studies[0]

    def unscaled(case):
        return {"image": case["image"] * 1e4, "label": case["label"]}

    monkeypatch.setattr(stroke_dwi, "preprocessing", lambda task, spacing: unscaled)
    result = convert.prepare_study(convert.Work(study, "training", "0" * 64), convert.Settings(task, SPACING, None))
    assert rules(result.outcome) == ["case-not-storable"]


# --- one input state ------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(source):
    write_subject(source, "0", head(0))
    write_subject(source, "1", head(1))
    write_subject(source, "2", head(2, stripped=True))


def test_mixing_is_refused_and_costs_nothing_to_resolve(mixed, out, preparing, converted):
    with pytest.raises(NothingUsable, match="2 are whole-head and 1 skull-stripped") as caught:
        preparing()
    assert "--input-state" in caught.value.mend
    assert not (out / "manifest.json").exists()
    found = preparing(input_state="whole-head").manifest
    assert len(converted) == 3
    assert found.input_state == "whole-head"
    assert len(found.cases) == 2
    assert rules(found.excluded[0]) == ["input-state-other"]


def test_a_choice_holds_until_another_is_made(mixed, preparing, converted):
    first = preparing(input_state="whole-head").manifest
    assert preparing().manifest == first
    assert len(converted) == 3
    other = preparing(input_state="skull-stripped").manifest
    assert other.input_state == "skull-stripped"
    assert len(other.cases) == 1
    assert len(other.excluded) == 2


def test_a_choice_that_leaves_nothing(source, preparing):
    write_subject(source, "0", head(0))
    with pytest.raises(NothingUsable, match="input-state-other: 1"):
        preparing(input_state="skull-stripped")


# --- nothing, or not here -------------------------------------------------------------------------------------------


def test_nothing_usable_says_why_and_leaves_nothing(source, out, preparing):
    for subject in range(3):
        _, mask = write_subject(source, f"{subject}", head(subject))
        mask.unlink()
    write_subject(source, "3", plant_image_constant(head(3)))
    with pytest.raises(NothingUsable, match=r"None of 4 studies.*label-missing: 3, image-constant: 1") as caught:
        preparing()
    assert caught.value.mend
    assert len(caught.value.excluded) == 4
    assert json.dumps(caught.value.data)
    assert not out.exists()


def test_a_source_that_lost_all_leaves_the_old_set(source, out, preparing):
    _, mask = write_subject(source, "one", head())
    preparing()
    before = everything(out)
    mask.unlink()
    with pytest.raises(NothingUsable):
        preparing()
    assert everything(out) == before


def test_a_source_that_vanishes_keeps_the_old_set(source, out, task, preparing, pseudonyms, request_of):
    write_subject(source, "one", head(1))
    preparing()
    before = everything(out)
    write_subject(source, "two", head(2))
    collected = collect(source, None, task, pseudonyms)
    shutil.rmtree(source)
    with pytest.raises(SourceMissing, match="vanished"):
        prepare.prepare(collected, out, request_of(), pseudonyms)
    assert everything(out) == before


def test_a_file_that_vanishes_meanwhile(source, out, task, pseudonyms, request_of, monkeypatch):
    image, _ = write_subject(source, "one", head(1))
    collected = collect(source, None, task, pseudonyms)
    works = prepare._works
    monkeypatch.setattr(prepare, "_works", lambda *arguments: (works(*arguments), image.unlink())[0])
    with pytest.raises(SourceMissing, match="vanished"):
        prepare.prepare(collected, out, request_of(), pseudonyms)
    assert not out.exists()


def test_a_folder_of_another_task_is_left_alone(source, out, preparing, request_of, task, pseudonyms):
    write_subject(source, "one", head())
    preparing()
    before = everything(out)
    other = dataclasses.replace(task, name="other-task")
    with pytest.raises(UsageError, match="stroke-dwi"):
        prepare.prepare(collect(source, None, other, pseudonyms), out, request_of(task=other), pseudonyms)
    assert everything(out) == before


def test_a_full_disk_keeps_what_was_done(source, out, preparing, converted, monkeypatch):
    for subject in range(3):
        write_subject(source, f"{subject}", head(subject))
    original = cases.store_case

    def full(folder, encoded):
        if len(converted) == 3:
            raise CannotWrite("Cannot write: No space left on device.", "Free some space.")
        original(folder, encoded)

    monkeypatch.setattr(cases, "store_case", full)
    with pytest.raises(CannotWrite):
        preparing()
    monkeypatch.setattr(cases, "store_case", original)
    assert preparing().new == 3
    assert len(converted) == 4


# --- a mere check ---------------------------------------------------------------------------------------------------


def test_a_check_finds_the_same_and_stores_nothing(source, out, preparing, request_of, task, pseudonyms, tmp_path):
    write_subject(source, "good", head(0))
    write_subject(source, "bad", plant_values_unknown(head(1)))
    before = sorted(tmp_path.rglob("*"))
    looks = {}
    collected = collect(source, None, task, pseudonyms)
    checked = prepare.check(collected, request_of(), pseudonyms, keep=looks.__setitem__)
    assert sorted(tmp_path.rglob("*")) == before
    assert checked.manifest == preparing().manifest
    assert list(looks) == [checked.manifest.cases[0].id]
    assert len(looks[checked.manifest.cases[0].id].planes) == 3


# --- withdrawn patients ---------------------------------------------------------------------------------------------


def test_a_withdrawn_patient_is_left_out(source, out, preparing, task, pseudonyms, request_of, converted):
    for seed, subject in enumerate(("one", "two")):
        write_subject(source, subject, head(seed))
    write_subject(source, "two", head(9), session="later")
    gone = pseudonyms.patient("two", "bids")
    before = preparing().manifest
    assert len(before.cases) == 3
    collected = collect(source, None, task, pseudonyms)
    prepared = prepare.prepare(collected, out, request_of(), pseudonyms, withdrawn=lambda: {gone})
    assert [case.patient for case in prepared.manifest.cases] == [pseudonyms.patient("one", "bids")]
    assert [(study.patient, rules(study)) for study in prepared.manifest.excluded] == [
        (gone, ["patient-withdrawn"])
    ] * 2
    assert prepared.removed == 2
    assert len(everything(out / "cases")) == 1
    assert len(converted) == 3, "nothing is read of whoever is withdrawn"
    checked = prepare.check(collected, request_of(), pseudonyms, withdrawn=lambda: {gone})
    assert checked.manifest == prepared.manifest


def test_a_patient_who_is_withdrawn_meanwhile_is_left_out(source, out, task, pseudonyms, request_of):
    for seed, subject in enumerate(("one", "two")):
        write_subject(source, subject, head(seed))
    gone: set[str] = set()
    collected = collect(source, None, task, pseudonyms)

    def progress(done, total):
        gone.add(pseudonyms.patient("two", "bids"))

    found = prepare.prepare(collected, out, request_of(), pseudonyms, progress, withdrawn=lambda: gone).manifest
    assert len(found.cases) == len(everything(out / "cases")) == 1
    assert [rules(study) for study in found.excluded] == [["patient-withdrawn"]]


def test_a_study_that_was_left_out_is_withdrawn_too(source, out, task, pseudonyms, request_of):
    write_subject(source, "good", head(0))
    _, mask = write_subject(source, "bad", head(1))
    mask.unlink()
    gone = pseudonyms.patient("bad", "bids")
    collected = collect(source, None, task, pseudonyms)
    found = prepare.prepare(collected, out, request_of(), pseudonyms, withdrawn=lambda: {gone}).manifest
    assert [rules(study) for study in found.excluded] == [["patient-withdrawn"]]


def test_what_an_earlier_format_holds_is_prepared_anew(source, out, preparing, converted):
    write_subject(source, "one", head(1))
    (record,) = preparing().manifest.cases
    case = cases.open_case(out / record.file)
    save_file({"image": case.image.copy(), "label": case.label.copy()}, out / record.file)
    content = json.loads((out / "manifest.json").read_text()) | {"schema": 1}
    (out / "manifest.json").write_text(json.dumps(content))
    prepared = preparing()
    assert converted == [record.id] * 2
    assert prepared.manifest.cases == (record,)
    assert manifest.load(out).schema_version == 2
    cases.verify_case(out / record.file, record.sha256)


def test_another_version_of_the_preprocessing_prepares_anew(source, out, preparing, request_of, task, converted):
    write_subject(source, "one", head())
    preparing()
    preparing(task=dataclasses.replace(task, preprocessing_version=task.preprocessing_version + 1))
    assert len(converted) == 2


def test_what_the_headers_said_counts(source, out, preparing, task, pseudonyms, request_of, converted):
    """As when a series is resampled, or no longer: no file changes, and yet the case does."""
    write_subject(source, "one", head())
    preparing()
    collected = collect(source, None, task, pseudonyms)
    study = collected.studies[0]
    remark = finding("directionality-unknown", study.id)
    image = dataclasses.replace(study.images[0], findings=(remark,))
    told = dataclasses.replace(collected, studies=(dataclasses.replace(study, images=(image,)),))
    for _ in range(2):
        found = prepare.prepare(told, out, request_of(), pseudonyms).manifest
        assert rules(found.cases[0]) == ["directionality-unknown"]
    assert len(converted) == 2


def test_nothing_of_a_patient_is_in_the_manifest(source, out, task, request_of):
    write_subject(source, "Zwiebelfisch", head(), session="Oktober")
    keys = [Pseudonyms(bytes([number]) * 32) for number in range(2)]
    found = []
    for key in keys:
        folder = out / key.path("x")
        folder.mkdir(parents=True)
        prepare.prepare(collect(source, None, task, key), folder, request_of(), key)
        found.append((folder / "manifest.json").read_text())
    for text in found:
        assert "Zwiebel" not in text
        assert "Oktober" not in text
        assert str(source) not in text
    # Under another key everything that names somebody is another.
    one, other = (json.loads(text)["cases"][0] for text in found)
    assert all(one[field] != other[field] for field in ("id", "patient", "fingerprint", "file"))
