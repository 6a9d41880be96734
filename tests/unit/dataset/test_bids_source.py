import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.bids_maker import affine_of, head, write_nifti, write_subject

from fedsite.dataset import bids_source
from fedsite.dataset.sources import collect, detect
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
    assert detect(source) == "dicom"
    write_subject(source, "one", head())
    assert detect(source) == "bids"
    (source / "sub-one" / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 8)
    assert detect(source) == "dicom"


def test_what_a_bids_folder_was_converted_from_does_not_count(source):
    write_subject(source, "one", head())
    (source / "sourcedata").mkdir()
    (source / "sourcedata" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert detect(source) == "bids"
    assert detect(source / "sourcedata" / "IM0001") == "dicom"


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
