"""Public data sets as they come: told apart, their files put together, their label values brought to the task's."""

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support import layout_maker as maker
from support.bids_maker import head, write_nifti
from support.layout_maker import tumour

from fedsite.dataset import convert, nifti
from fedsite.dataset.cases import open_case
from fedsite.dataset.locate import locate
from fedsite.dataset.prepare import Request
from fedsite.dataset.sources import collect
from fedsite.dataset.studies import Unmarked
from fedsite.errors import DataNotFit, UsageError
from fedsite.jobs.data import prepare as job
from fedsite.tasks import registry

TUMOUR = registry.get("brain-tumour-mr")
BRATS_2023 = ("t1n", "t1c", "t2w", "t2f")
BRATS_2021 = ("t1", "t1ce", "t2", "flair")
SPACING = (4.0, 4.0, 6.0)


@pytest.fixture
def collected(source, pseudonyms):
    def collected(task=TUMOUR, labels=None, layout=""):
        return collect(source, labels, task, pseudonyms, layout=layout)

    return collected


@pytest.fixture
def case_of(tmp_path):
    """The case of a study, or its exclusion."""

    def case_of(study, task=TUMOUR):
        work = convert.Work(study, "training", "0" * 64)
        record = convert.prepare_study(work, convert.Settings(task, SPACING, tmp_path)).outcome
        return open_case(tmp_path / record.file) if hasattr(record, "file") else record

    return case_of


def volumes_of(mask: np.ndarray) -> dict[int, int]:
    return {value: int(count) for value, count in zip(*np.unique(mask[mask > 0], return_counts=True), strict=True)}


def test_brats_2023(source, collected, case_of):
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00007-000"):
        maker.write_brats(source, name, tumour(), BRATS_2023)
    found = collected()
    assert (found.kind, found.excluded, found.findings) == ("brats", (), ())
    assert len({study.id for study in found.studies}) == 3
    assert len({study.patient for study in found.studies}) == 2
    study = found.studies[0]
    assert [image.channel for image in study.images] == ["t1", "t1c", "t2", "flair"]
    for number, image in enumerate(study.images):
        np.testing.assert_array_equal(image.read(), tumour().image * (number + 1))
    case = case_of(study)
    assert volumes_of(case.source_label()) == volumes_of(tumour().mask)
    assert set(np.unique(case.label)) == {0, 1, 2, 3}


def test_brats_2021_stores_4_for_what_enhances(source, collected, case_of):
    maker.write_brats(source, "BraTS2021_00002", tumour(enhancing=4), BRATS_2021, "_")
    (study,) = collected().studies
    np.testing.assert_array_equal(study.images[3].read(), tumour().image * 4)
    assert volumes_of(case_of(study).source_label()) == volumes_of(tumour().mask)


def test_the_decathlon_stores_oedema_first(source, collected, case_of):
    maker.write_decathlon(source, "BRATS_001", tumour(core=2, oedema=1))
    (source / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"what a Mac leaves behind")
    found = collected()
    assert (found.kind, found.excluded, found.findings) == ("decathlon", (), ())
    (study,) = found.studies
    of_channel = {image.channel: image.read() for image in study.images}
    for number, channel in enumerate(("flair", "t1", "t1c", "t2")):
        np.testing.assert_array_equal(of_channel[channel], tumour().image * (number + 1))
    assert len({image.id for image in study.images}) == 4
    assert volumes_of(case_of(study).source_label()) == volumes_of(tumour().mask)


def test_nnunet_keeps_a_file_for_each_image(source, collected, case_of):
    maker.write_nnunet(source, "BRATS_0001", tumour(core=2, oedema=1))
    (study,) = collected().studies
    assert {image.channel: round(image.read().max() / tumour().image.max()) for image in study.images} == {
        "flair": 1,
        "t1": 2,
        "t1c": 3,
        "t2": 4,
    }
    assert volumes_of(case_of(study).source_label()) == volumes_of(tumour().mask)


def test_atlas(source, collected, case_of):
    task = registry.get("stroke-t1")
    maker.write_atlas(source, "r001s001", head(1))
    maker.write_atlas(source, "r009s024", head(2))
    found = collected(task)
    assert (found.kind, found.excluded, found.findings) == ("bids", (), ())
    first, second = (case_of(study, task) for study in found.studies)
    drawn = sorted(int(np.count_nonzero(head(seed).mask)) for seed in (1, 2))
    assert sorted(int(np.count_nonzero(case.source_label())) for case in (first, second)) == drawn


def test_atlas_in_derivatives_only(source, collected):
    maker.write_atlas(source / "derivatives" / "ATLAS", "r001s001", head(1))
    assert len(collected(registry.get("stroke-t1")).studies) == 1


def test_a_mask_lies_in_the_space_of_its_image(source, collected):
    path = maker.write_atlas(source, "r001s001", head(1))
    other = path.with_name(path.name.replace("space-MNI152NLin2009aSym_", "space-orig_"))
    path.rename(other)
    write_nifti(path, head(1).mask, head(1).affine)
    (study,) = collected(registry.get("stroke-t1")).studies
    assert study.mask.files == (path,)


def ct(content):
    """The head in Hounsfield units."""
    return np.where(content.image > 400, 70, np.where(content.image > 150, 35, content.image * 8 - 1000))


def test_isles_24_draws_on_a_later_mr_what_the_ct_is_to_show(source, collected, case_of):
    task, content = registry.get("ischaemia-ct"), head(1)
    raw = source / "raw_data" / "sub-stroke0001"
    derived = source / "derivatives" / "sub-stroke0001" / "ses-02"
    write_nifti(raw / "ses-01" / "sub-stroke0001_ses-01_ncct.nii.gz", ct(content), content.affine)
    write_nifti(raw / "ses-02" / "sub-stroke0001_ses-02_dwi.nii.gz", content.image, content.affine)
    for kind in ("lesion", "lvo"):
        mask = derived / f"sub-stroke0001_ses-02_space-ncct_{kind}-msk.nii.gz"
        write_nifti(mask, content.mask, content.affine)
    found = collected(task)
    assert (found.kind, found.excluded, found.findings) == ("bids", (), ())
    (study,) = found.studies
    assert "lesion" in study.mask.files[0].name
    case = case_of(study, task)
    assert case.inputs == ("ct:20..45", "ct:0..80")
    np.testing.assert_array_equal(case.source_label(), content.mask)


@pytest.mark.parametrize(("layout", "value"), [("instance22", 1), ("bhsd", 4), ("decathlon", 1)])
def test_haemorrhages_of_one_kind_are_made_of_all(source, collected, case_of, layout, value):
    task, content = registry.get("haemorrhage-ct"), head(2)
    folders = next(each.folders for each in task.layouts if each.name == layout)
    for folder, voxels in zip(folders, (ct(content), content.mask * value), strict=True):
        write_nifti(source / folder / "001.nii.gz", voxels, content.affine)
    (study,) = collected(task).studies
    np.testing.assert_array_equal(case_of(study, task).source_label(), content.mask)


def test_in_bids_an_agent_is_told_by_its_entity(source, collected, case_of):
    content = tumour()
    images = {"T1w": 1, "ce-gadolinium_T1w": 2, "T2w": 3, "FLAIR": 4}
    for name, factor in images.items():
        write_nifti(source / "sub-a" / "anat" / f"sub-a_{name}.nii.gz", content.image * factor, content.affine)
    write_nifti(source / "derivatives" / "sub-a" / "sub-a_dseg.nii.gz", content.mask, content.affine)
    (study,) = collected().studies
    assert [round(image.read().max() / content.image.max()) for image in study.images] == [1, 2, 3, 4]
    assert volumes_of(case_of(study).source_label()) == volumes_of(content.mask)


def test_the_real_isles_case_with_all_its_images(real_data, pseudonyms, case_of):
    task = registry.get("stroke-dwi")
    (study,) = collect(real_data / "labels_isles22" / "strokecase0009", None, task, pseudonyms).studies
    assert [image.channel for image in study.images] == [channel.name for channel in task.channels]
    case = case_of(study, task)
    assert case.missing == ()
    assert case.source_grid.shape == (112, 112, 73)
    (mask,) = study.mask.files
    np.testing.assert_array_equal(case.source_label(), nifti.read_voxels(mask))


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_value_that_the_layout_does_not_know(source, collected, case_of):
    maker.write_brats(source, "BraTS-GLI-00005-000", tumour(enhancing=4), BRATS_2023)
    (study,) = collected().studies
    (remark,) = case_of(study).findings
    assert remark.id == "label-values-unknown"
    assert remark.message == "The mask holds values that the task has no name for: 4."
    assert "0, 1, 2, 3" in remark.mend


def test_an_image_that_is_not_there(source, collected):
    maker.write_brats(source, "BraTS-GLI-00005-000", tumour(), BRATS_2023[:3])
    maker.write_decathlon(source / "other", "BRATS_001", tumour(), channels=2)
    assert [study.reason.id for study in collected().excluded] == ["channel-missing"]


def test_a_file_of_too_few_volumes(source, collected):
    maker.write_decathlon(source, "BRATS_001", tumour(), channels=2)
    (study,) = collected().excluded
    assert {"channel-missing", "image-not-3d"} == {remark.id for remark in study.findings}


def test_axes_of_length_one_do_not_matter(source, collected):
    maker.write_decathlon(source, "BRATS_001", tumour())
    path = source / "imagesTr" / "BRATS_001.nii.gz"
    stacked = nib.load(path)
    write_nifti(path, np.asarray(stacked.dataobj)[..., None], stacked.affine)
    (study,) = collected().studies
    np.testing.assert_array_equal(study.images[3].read(), tumour().image * 1)


def test_masks_from_elsewhere(source, collected, tmp_path):
    maker.write_brats(source, "BraTS-GLI-00005-000", tumour(), BRATS_2023).unlink()
    assert [study.reason.id for study in collected().excluded] == ["label-missing"]
    labels = tmp_path / "labels"
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00006-000-seg"):
        write_nifti(labels / f"{name}.nii.gz", tumour().mask, tumour().affine)
    found = collected(labels=labels)
    assert len(found.studies) == 1
    assert [remark.id for remark in found.findings] == ["label-unpaired"]


def test_images_of_the_decathlon_without_masks(source, pseudonyms, collected, tmp_path):
    mask = maker.write_decathlon(source, "BRATS_001", tumour(core=2, oedema=1))
    (tmp_path / "labels").mkdir()
    mask.rename(tmp_path / "labels" / mask.name)
    mask.parent.rmdir()
    assert len(collected(labels=tmp_path / "labels").studies) == 1
    (study,) = collect(source, None, TUMOUR, pseudonyms, unmarked=Unmarked()).studies
    assert study.mask is None


def test_images_that_say_whose_they_are(source, pseudonyms):
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00006-000"):
        maker.write_brats(source, name, tumour(), BRATS_2023)
    sidecar = source / "BraTS-GLI-00006-000" / "BraTS-GLI-00006-000-t1n.json"
    sidecar.write_text(json.dumps({"PatientName": "Doe^Jane"}))
    found = collect(source, None, TUMOUR, pseudonyms, require_deidentified=True)
    assert len(found.studies) == 1
    assert [remark.id for remark in found.excluded[0].findings] == ["channel-missing", "direct-identifiers"]


@pytest.mark.parametrize(
    "description",
    [
        {"labels": {"0": "background", "1": "edema", "4": "enhancing"}},
        {"labels": {"background": 0, "whole": [1, 2, 3], "other": 7}},
        {"modality": {"0": "T1w", "1": "FLAIR", "2": "t1gd", "3": "T2w"}},
        {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}},
    ],
)
def test_a_set_that_describes_itself_otherwise(source, collected, description):
    maker.write_decathlon(source, "BRATS_001", tumour(), description=description)
    with pytest.raises(DataNotFit, match=r"dataset\.json has"):
        collected()


@pytest.mark.parametrize(
    "text", ["[]", '{"labels": 3, "modality": ["FLAIR"]}', '{"labels": {"background": 0, "a": 1}}']
)
def test_a_set_that_describes_little(source, collected, text):
    maker.write_decathlon(source, "BRATS_001", tumour())
    (source / "dataset.json").write_text(text)
    assert len(collected().studies) == 1


def test_a_description_that_is_no_json(source, collected):
    maker.write_decathlon(source, "BRATS_001", tumour())
    (source / "dataset.json").write_text("{")
    with pytest.raises(DataNotFit, match="not JSON"):
        collected()


# --- which layout it is ---------------------------------------------------------------------------------------------


def test_what_could_be_two_must_be_named(source, collected):
    maker.write_decathlon(source, "BRATS_001", tumour())
    maker.write_brats(source, "BraTS-GLI-00005-000", tumour(), BRATS_2023)
    with pytest.raises(UsageError, match="several layouts: brats, decathlon"):
        collected()
    assert collected(layout="brats").kind == "brats"
    assert collected(layout="decathlon").kind == "decathlon"


def test_a_layout_must_be_known_and_followed(source, collected):
    maker.write_decathlon(source, "BRATS_001", tumour())
    with pytest.raises(UsageError, match="no layout 'brats21'") as caught:
        collected(layout="brats21")
    assert "brats-2021" in caught.value.mend
    with pytest.raises(DataNotFit, match="not laid out as brats-2021"):
        collected(layout="brats-2021")


def test_nothing_in_any_layout(source, collected):
    write_nifti(source / "scan.nii.gz", head().image, head().affine)
    with pytest.raises(DataNotFit, match="in a layout of the task"):
        collected()


def test_every_shipped_layout_is_of_its_task():
    for name in registry.names():
        task = registry.get(name)
        assert not task.channels[0].optional  # its grid is the study's
        for layout in task.layouts:
            assert set(layout.images) <= {channel.name for channel in task.channels}
            assert set(layout.label_values.values()) <= set(task.labels)


def test_a_file_is_found_again(source, collected, pseudonyms):
    maker.write_decathlon(source, "BRATS_001", tumour())
    (study,) = collected().studies
    places = {Path(located.files[0][0]) for located in locate(source, study.id, pseudonyms)}
    assert places == {source / folder / "BRATS_001.nii.gz" for folder in ("imagesTr", "labelsTr")}
    (found,) = locate(source, study.images[2].id, pseudonyms)
    assert found.study == study.id


def test_nothing_that_is_written_names_a_patient(source, pseudonyms, tmp_path, optional):
    maker.write_brats(source, "BraTS-GLI-00005-000", tumour(1), BRATS_2023)
    maker.write_brats(source, "BraTS-GLI-00006-000", tumour(2), BRATS_2023[:3])
    order = job.Order(source, optional.name, layout="brats")
    done = job.run(order, tmp_path / "out", Request(optional, SPACING), pseudonyms)
    assert done.prepared.manifest.source == "brats"
    assert sorted(case.missing for case in done.prepared.manifest.cases) == [(), ("flair",)]
    page = done.report.read_text()
    assert "<dt>Without</dt><dd>flair</dd>" in page
    assert "t1 + t1c + t2 + flair" in page
    for path in done.out.rglob("*"):
        assert path.is_dir() or not any(name in path.read_bytes() for name in (b"GLI", bytes(source)))


def test_workers_are_those_of_the_cluster_or_of_this_machine(source, pseudonyms, tmp_path):
    order = job.Order(source, TUMOUR.name, workers=2, cluster="tcp://127.0.0.1:1")
    with pytest.raises(UsageError, match="do not go together"):
        job.run(order, tmp_path / "out", Request(TUMOUR, SPACING), pseudonyms)


# --- optional images ------------------------------------------------------------------------------------------------


@pytest.fixture
def optional():
    """Brain tumours, T2 and FLAIR where there are any."""
    return dataclasses.replace(
        TUMOUR,
        channels=tuple(dataclasses.replace(each, optional=each.name in ("t2", "flair")) for each in TUMOUR.channels),
    )


def test_an_optional_image_that_is_missing_is_zeros_and_named(source, collected, case_of, optional):
    maker.write_brats(source, "BraTS-GLI-00005-000", tumour(), BRATS_2023[:3])
    (study,) = collected(optional).studies
    case = case_of(study, optional)
    assert case.missing == ("flair",)
    assert case.inputs == ("t1", "t1c", "t2", "flair")
    assert not case.image[3].any()
    assert all(case.image[number].any() for number in range(3))


@pytest.mark.parametrize("fault", ["unreadable", "elsewhere", "header", "twice"])
def test_an_optional_image_that_cannot_be_used_is_told(source, collected, case_of, optional, fault):
    maker.write_brats(source, "BraTS-GLI-00005-000", tumour(), BRATS_2023)
    path = source / "BraTS-GLI-00005-000" / "BraTS-GLI-00005-000-t2f.nii.gz"
    if fault == "unreadable":
        path.write_bytes(path.read_bytes()[:-500])
    elif fault == "header":
        path.write_bytes(b"no header")
    elif fault == "elsewhere":
        away = tumour().affine.copy()
        away[2, 3] += 90
        write_nifti(path, tumour().image, away)
    else:
        write_nifti(source / "again" / path.name, tumour().image, tumour().affine)
    (study,) = collected(optional).studies
    work = convert.Work(study, "training", "0" * 64)
    record = convert.prepare_study(work, convert.Settings(optional, SPACING, None)).outcome
    assert [remark.id for remark in record.findings] == ["channel-left-out"]
    assert record.findings[0].message.startswith("The flair image, which is optional, is there but not used: ")
    assert record.missing == ("flair",)
