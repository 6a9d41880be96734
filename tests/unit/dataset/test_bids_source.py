import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.bids_maker import affine_of, head, write_nifti, write_subject

from fedsite.dataset import bids_source
from fedsite.dataset.sources import collect, holds_dicom
from fedsite.errors import DataNotFit, SourceMissing


def reasons(collected):
    return sorted(study.reason.id for study in collected.excluded)


def all_rules(collected):
    return {remark.id for study in collected.excluded for remark in study.findings}


@pytest.fixture
def collecting(source, task, pseudonyms):
    return lambda labels=None: bids_source.collect(source, labels, task, pseudonyms)


def test_a_study_is_subject_and_session(source, collecting, pseudonyms):
    write_subject(source, "one", head(1), session="a")
    write_subject(source, "one", head(2), session="b")
    write_subject(source, "two", head(3))
    collected = collecting()
    assert len(collected.studies) == 3
    assert {study.patient for study in collected.studies} == {
        pseudonyms.patient("one", "bids"),
        pseudonyms.patient("two", "bids"),
    }
    study = next(study for study in collected.studies if study.patient == pseudonyms.patient("two", "bids"))
    assert study.images[0].b_value == 1000
    assert study.images[0].scanner == "ACME Field 3"
    np.testing.assert_array_equal(study.images[0].read(), head(3).image)
    assert "two" not in repr(collected)


@pytest.mark.parametrize("layout", ["rawdata", "sub-one/rawdata", "deep/er"])
def test_images_lie_at_any_depth(source, collecting, layout):
    write_subject(source / "x", "one", head())
    shutil.move(source / "x" / "sub-one", source / layout / "sub-one")
    shutil.move(source / "x" / "derivatives", source / "derivatives")
    assert len(collecting().studies) == 1


@pytest.mark.parametrize("suffix", ["mask", "lesion", "label", "dseg", "label-L_desc-T1lesion_mask", "MASK"])
def test_a_mask_goes_by_its_suffix(source, collecting, suffix):
    _, mask = write_subject(source, "one", head())
    mask.rename(mask.with_name(f"sub-one_{suffix}.nii.gz"))
    assert len(collecting().studies) == 1


def test_a_mask_may_lie_beside_its_image(source, collecting):
    image, mask = write_subject(source, "one", head())
    mask.rename(image.with_name("sub-one_mask.nii.gz"))
    assert len(collecting().studies) == 1


def test_a_brain_mask_is_no_lesion(source, collecting):
    image, mask = write_subject(source, "one", head())
    mask.rename(image.with_name("sub-one_desc-brain_mask.nii.gz"))
    assert reasons(collecting()) == ["label-missing"]


def test_with_labels_given_masks_come_from_there_alone(source, tmp_path, collecting):
    _, mask = write_subject(source, "one", head())
    labels = tmp_path / "masks"
    labels.mkdir()
    assert reasons(collecting(labels)) == ["label-missing"]
    shutil.copy(mask, labels)
    assert len(collecting(labels).studies) == 1


def test_images_of_derivatives_are_left_alone(source, collecting):
    image, _ = write_subject(source, "one", head())
    shutil.copy(image, source / "derivatives" / "sub-one_space-MNI_dwi.nii.gz")
    assert len(collecting().studies) == 1


def test_several_images(source, collecting):
    image, _ = write_subject(source, "one", head())
    shutil.copy(image, image.with_name("sub-one_run-2_dwi.nii.gz"))
    collected = collecting()
    assert reasons(collected) == ["several-candidates"]
    assert collected.excluded[0].reason.message.count("s-") == 2


def test_the_trace_is_preferred_and_maps_are_left_aside(source, collecting):
    image, _ = write_subject(source, "one", head())
    for entity in ("rec-TRACE", "rec-ADC"):
        shutil.copy(image, image.with_name(f"sub-one_{entity}_dwi.nii.gz"))
    collected = collecting()
    assert len(collected.studies) == 1
    assert "rec-TRACE" in collected.studies[0].files[0].name


def test_masks_missing_doubled_and_left_over(source, collecting):
    _, mask = write_subject(source, "one", head())
    mask.unlink()
    _, mask = write_subject(source, "two", head())
    shutil.copy(mask, mask.with_name("sub-two_lesion.nii.gz"))
    _, mask = write_subject(source, "three", head())
    mask.rename(mask.with_name("sub-four_msk.nii.gz"))
    collected = collecting()
    assert reasons(collected) == ["label-ambiguous", "label-missing", "label-missing"]
    assert [remark.id for remark in collected.findings] == ["label-unpaired"]
    assert collected.findings[0].message.startswith("1 ")


def test_a_b_value_outside_the_task(source, collecting):
    write_subject(source, "one", head(), sidecar={"DiffusionBValue": 0})
    collected = collecting()
    assert reasons(collected) == ["channel-missing"]
    assert "b-value-out-of-range" in all_rules(collected)


@pytest.mark.parametrize("key", ["DiffusionBValue", "b_value", "0018,9087", "00189087"])
def test_the_sidecar_says_the_b_value(source, collecting, key):
    write_subject(source, "one", head(), sidecar={key: 800.0})
    assert collecting().studies[0].images[0].b_value == 800


def test_a_bval_file_says_it_too(source, collecting):
    image, _ = write_subject(source, "one", head(), sidecar={})
    image.with_name("sub-one_dwi.bval").write_text("900\n")
    assert collecting().studies[0].images[0].b_value == 900


@pytest.mark.parametrize("said", [{}, {"DiffusionBValue": [0, 1000]}, {"DiffusionBValue": "high"}])
def test_an_unsaid_b_value_is_assumed_and_told(source, collecting, said):
    write_subject(source, "one", head(), sidecar=said)
    image = collecting().studies[0].images[0]
    assert image.b_value is None
    assert [remark.id for remark in image.findings] == ["b-value-assumed"]


@pytest.mark.parametrize("said", ["NaN", "Infinity", "-5"])
def test_an_absurd_b_value_is_refused(source, collecting, said):
    image, _ = write_subject(source, "one", head())
    image.with_name("sub-one_dwi.json").write_text(f'{{"DiffusionBValue": {said}}}')
    assert "b-value-out-of-range" in all_rules(collecting())


# --- which mask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        "sub-one_space-MNI152NLin2009cAsym_mask",
        "sub-one_desc-brain_mask",
        "sub-one_label-GM_mask",
        "sub-one_desc-aseg_dseg",
        "sub-one_desc-motion_mask",
    ],
)
def test_a_mask_of_the_lesion_goes_before_others(source, collecting, other):
    _, mask = write_subject(source, "one", head())
    shutil.copy(mask, mask.with_name(f"{other}.nii.gz"))
    mask = mask.rename(mask.with_name("sub-one_label-lesion_mask.nii.gz"))
    assert collecting().studies[0].mask.files == (mask,)


def test_a_mask_in_the_images_own_space_goes_before_one_in_a_templates(source, collecting):
    _, mask = write_subject(source, "one", head())
    shutil.copy(mask, mask.with_name("sub-one_space-MNI152Lin_mask.nii.gz"))
    assert collecting().studies[0].mask.files == (mask,)


@pytest.mark.parametrize("name", ["label-L_mask", "desc-lesion_mask", "space-orig_label-Lesion_mask"])
def test_what_is_called_like_the_tasks_label_is_meant(source, collecting, name):
    _, mask = write_subject(source, "one", head())
    lesion = mask.with_name(f"sub-one_{name}.nii.gz")
    shutil.copy(mask, lesion)
    assert collecting().studies[0].mask.files == (lesion,)


def test_two_masks_of_which_neither_is_preferred_are_named(source, collecting):
    _, mask = write_subject(source, "one", head())
    shutil.copy(mask, mask.with_name("sub-one_desc-other_mask.nii.gz"))
    collected = collecting()
    assert reasons(collected) == ["label-ambiguous"]
    assert collected.excluded[0].reason.message.count("s-") == 2


def test_a_mask_of_another_run_is_another_images(source, collecting):
    image, mask = write_subject(source, "one", head())
    for run in ("run-1", "run-2"):
        shutil.copy(image, image.with_name(f"sub-one_{run}_dwi.nii.gz"))
    image.unlink()
    mask = mask.rename(mask.with_name("sub-one_run-2_mask.nii.gz"))
    (study,) = collecting().studies
    assert study.images[0].files[0].name == "sub-one_run-2_dwi.nii.gz"
    assert study.mask.files == (mask,)


def test_a_mask_that_names_no_session_is_that_of_the_only_one(source, collecting):
    for session in ("a", "b"):
        _, mask = write_subject(source, "two", head(), session=session)
        mask.unlink()
    _, mask = write_subject(source, "one", head(), session="a")
    mask.rename(mask.with_name("sub-one_msk.nii.gz"))
    write_nifti(mask.with_name("sub-two_msk.nii.gz"), head().mask, head().affine)
    collected = collecting()
    assert len(collected.studies) == 1
    assert reasons(collected) == ["label-missing", "label-missing"]
    assert [remark.id for remark in collected.findings] == ["label-unpaired"]


def test_a_whole_derivatives_folder_as_labels(source, tmp_path, collecting):
    image, mask = write_subject(source, "one", head(), session="1")
    labels = tmp_path / "lesions"
    drawn = labels / "sub-one" / "ses-1" / "dwi" / "sub-one_ses-1_space-orig_label-lesion_mask.nii.gz"
    drawn.parent.mkdir(parents=True)
    mask.rename(drawn)
    (labels / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    shutil.copy(image, drawn.with_name("sub-one_ses-1_desc-preproc_dwi.nii.gz"))
    shutil.copy(drawn, drawn.with_name("sub-one_ses-1_desc-brain_mask.nii.gz"))
    assert collecting(labels).studies[0].mask.files == (drawn,)


# --- files of several volumes ---------------------------------------------------------------------------------------


def series(source: Path, b_values: list[float], directions: list[list[float]] | None) -> np.ndarray:
    """A diffusion series whose volumes hold 1, 2, 3 ... times the head."""
    content = head()
    image, _ = write_subject(source, "one", content, sidecar={})
    voxels = np.stack([content.image * (number + 1) for number in range(len(b_values))], axis=-1)
    write_nifti(image, voxels, content.affine)
    image.with_name("sub-one_dwi.bval").write_text(" ".join(map(str, b_values)) + "\n")
    if directions is not None:
        lines = [" ".join(map(str, row)) for row in np.transpose(directions)]
        image.with_name("sub-one_dwi.bvec").write_text("\n".join(lines) + "\n")
    return voxels


NONE, X, Y, Z = [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]
SILENT = [float("nan")] * 3


def test_the_trace_of_a_series_is_taken(source, collecting):
    voxels = series(source, [0, 1000, 2500], [NONE, NONE, NONE])
    (image,) = collecting().studies[0].images
    np.testing.assert_array_equal(image.read(), voxels[..., 1])
    assert (image.b_value, image.shape, image.findings) == (1000, voxels.shape[:3], ())
    assert {path.suffix for path in image.files} == {".gz", ".json", ".bval", ".bvec"}


def test_a_series_of_directions_becomes_its_geometric_mean(source, collecting):
    voxels = series(source, [0, 995, 1000, 1005, 2500], [NONE, X, Y, Z, X])
    (image,) = collecting().studies[0].images
    np.testing.assert_allclose(image.read(), voxels[..., 0] * (2 * 3 * 4) ** (1 / 3), rtol=1e-5)
    assert image.b_value == 1000
    assert [remark.id for remark in image.findings] == ["trace-computed"]


def test_the_shell_nearest_to_the_preferred_b_value_is_taken(source, collecting):
    voxels = series(source, [0, 1500, 1500, 1500, 800, 800, 800], [NONE, X, Y, Z, X, Y, Z])
    (image,) = collecting().studies[0].images
    np.testing.assert_allclose(image.read(), voxels[..., 0] * (5 * 6 * 7) ** (1 / 3), rtol=1e-5)


@pytest.mark.parametrize(
    ("b_values", "directions", "rule"),
    [
        ([0, 1000, 1000], [NONE, X, Y], "trace-missing"),
        ([0, 1000, 1000, 1000], [NONE, X, Y, [0.7, 0.7, 0.0]], "trace-missing"),
        ([0, 1000, 1000, 1000], None, "trace-missing"),
        ([0, 1000, 1000, 1000], [NONE, X, Y, SILENT], "trace-missing"),
        ([0, 1000, 1000], [NONE, NONE, NONE], "several-candidates"),
        ([0, 50, 2500], [NONE, X, Y], "b-value-out-of-range"),
    ],
)
def test_a_series_without_a_trace(source, collecting, b_values, directions, rule):
    series(source, b_values, directions)
    assert rule in all_rules(collecting())


def test_one_volume_without_directions_is_taken_with_a_word(source, collecting):
    voxels = series(source, [0, 1000], None)
    (image,) = collecting().studies[0].images
    np.testing.assert_array_equal(image.read(), voxels[..., 1])
    assert [remark.id for remark in image.findings] == ["directionality-unknown"]


@pytest.mark.parametrize(
    "text", ["0 1000", "0 1000 1000 1000 1000", "zero", "", "0 1000\n1000 1000", "0 nan 1000 1000"]
)
def test_b_values_that_are_not_those_of_the_series(source, collecting, text):
    series(source, [0, 1000, 1000, 1000], [NONE, X, Y, Z])
    (source / "sub-one" / "dwi" / "sub-one_dwi.bval").write_text(text)
    assert "image-not-3d" in all_rules(collecting())


def test_a_scaled_series_is_read_in_its_own_units(source, collecting):
    import nibabel as nib

    series(source, [0, 1000], [NONE, NONE])
    stored = np.stack([np.full((4, 5, 6), 7, np.int16), np.arange(120, dtype=np.int16).reshape(4, 5, 6)], axis=-1)
    image = nib.Nifti1Image(stored, np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, source / "sub-one" / "dwi" / "sub-one_dwi.nii.gz")
    (found,) = collecting().studies[0].images
    np.testing.assert_allclose(found.read(), stored[..., 1] * 0.5 + 10)


def test_a_truncated_series_is_an_error(source, collecting):
    series(source, [0, 1000], [NONE, NONE])
    path = source / "sub-one" / "dwi" / "sub-one_dwi.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    (found,) = collecting().studies[0].images
    with pytest.raises(DataNotFit, match="truncated"):
        found.read()


def test_images_that_are_no_volume(source, collecting):
    content = head()
    write_subject(source, "one", dataclasses.replace(content, image=np.stack([content.image] * 2, -1)))
    write_subject(source, "two", dataclasses.replace(content, image=content.image[..., :1]))
    assert all("image-not-3d" in {remark.id for remark in study.findings} for study in collecting().excluded)


def test_a_trailing_axis_of_one_is_nothing(source, collecting):
    content = head()
    write_subject(source, "one", dataclasses.replace(content, image=content.image[..., None]))
    study = collecting().studies[0]
    assert study.images[0].shape == content.image.shape
    assert study.images[0].read().shape == content.image.shape


def test_an_image_that_does_not_say_where_it_lies(source, collecting):
    import nibabel as nib

    image, _ = write_subject(source, "one", head())
    voxels = nib.Nifti1Image(head().image, None)
    voxels.header["qform_code"] = voxels.header["sform_code"] = 0
    nib.save(voxels, image)
    assert "geometry-missing" in all_rules(collecting())


def test_a_flat_affine_is_no_geometry(source, collecting):
    import nibabel as nib

    image, _ = write_subject(source, "one", head())
    flat = nib.Nifti1Image(head().image, None)
    flat.header.set_sform(np.diag([2.0, 2.0, 0.0, 1.0]), 1)
    nib.save(flat, image)
    assert "geometry-missing" in all_rules(collecting())


def test_another_modality(source, collecting):
    write_subject(source, "one", head(), sidecar={"Modality": "CT"})
    assert "modality-wrong" in all_rules(collecting())


@pytest.mark.parametrize("content", [b"", b"not a nifti", b"\x1f\x8b\x08\x00 nor gzip"])
def test_a_broken_image(source, collecting, content):
    image, _ = write_subject(source, "Doe", head())
    image.write_bytes(content)
    collected = collecting()
    assert "image-unreadable" in all_rules(collected)
    assert "Doe" not in str(collected.excluded)


def test_a_broken_sidecar(source, collecting):
    image, _ = write_subject(source, "one", head())
    image.with_name("sub-one_dwi.json").write_text("{")
    assert "image-unreadable" in all_rules(collecting())


def test_names_that_are_not_text(source, collecting):
    image, mask = write_subject(source, "one", head())
    for path in (image, mask):
        name = bytes(path).replace(b"sub-one_", b"sub-\xff\xfe_")
        path.rename(Path(name.decode("utf-8", "surrogateescape")))
    assert len(collecting().studies) == 1


def test_a_longer_scanner_name_is_cut(source, collecting):
    write_subject(source, "one", head(), sidecar={"Manufacturer": "x" * 500, "ManufacturerModelName": 7})
    assert len(collecting().studies[0].images[0].scanner) == 64


# --- which kind of source it is -------------------------------------------------------------------------------------


def test_any_dicom_file_makes_it_a_dicom_export(source):
    write_subject(source, "one", head())
    assert not holds_dicom(source)
    (source / "sub-one" / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 8)
    assert holds_dicom(source)


def test_what_a_bids_folder_was_converted_from_does_not_count(source):
    write_subject(source, "one", head())
    (source / "sourcedata").mkdir()
    (source / "sourcedata" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert not holds_dicom(source)
    assert holds_dicom(source / "sourcedata" / "IM0001")


def test_an_empty_folder_and_rubbish(source, task, pseudonyms):
    with pytest.raises(DataNotFit, match="neither DICOM"):
        collect(source, None, task, pseudonyms)
    (source / "notes.txt").write_text("Doe^John")
    write_nifti(source / "scan.nii.gz", head().image, affine_of())
    with pytest.raises(DataNotFit) as caught:
        collect(source, None, task, pseudonyms)
    assert "2 file(s) are not DICOM" in caught.value.message
    assert caught.value.mend


def test_a_source_or_labels_that_is_not_there(source, tmp_path, task, pseudonyms):
    with pytest.raises(SourceMissing) as caught:
        collect(tmp_path / "Doe_John", None, task, pseudonyms)
    assert "Doe" not in str(caught.value)
    with pytest.raises(SourceMissing, match="labels"):
        collect(source, tmp_path / "nowhere", task, pseudonyms)


def test_sidecars_of_other_shapes_are_survived(source, collecting):
    image, _ = write_subject(source, "one", head())
    image.with_name("sub-one_dwi.json").write_text(json.dumps(["no", "object"]))
    assert len(collecting().studies) == 1
