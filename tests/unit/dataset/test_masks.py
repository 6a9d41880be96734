"""DICOM exports whose masks are label objects: found, paired and read, each in the place where it may lie."""

import pickle
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from support.bids_maker import write_nifti
from support.dicom_maker import Grid, Names, classic, names, write
from support.label_maker import box, on_slice, segmentation, structure_set

from fedsite.dataset import dicom_source
from fedsite.dataset.locate import locate
from fedsite.dataset.studies import Collected
from fedsite.errors import DataNotFit

GRID = Grid(columns=24, rows=20, slices=12, between_rows=8.0, between_columns=8.0, step=10.0)
DIRECTIONS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@pytest.fixture
def who() -> Names:
    return names()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    return folder


@pytest.fixture
def collecting(source, task, pseudonyms):
    return lambda labels=None: dicom_source.collect(source, labels, task, pseudonyms)


def diffusion(who: Names, b_value: float = 1000.0, seed: int = 1, **attributes: object) -> list[Dataset]:
    known = {"DiffusionBValue": b_value, "DiffusionDirectionality": "ISOTROPIC" if b_value else "NONE", **attributes}
    return classic("MR", GRID, GRID.voxels(seed), replace(who, series=names().series), **known)


def lesion() -> np.ndarray:
    marked = np.zeros((GRID.slices, GRID.rows, GRID.columns), np.uint8)
    marked[5:8, 10:17, 16:18] = 1
    marked[6, 10, 18] = 1
    return marked


def assert_marks_the_lesion(collected: Collected) -> None:
    (study,) = collected.studies
    placed = study.mask.read(study.images[0])
    assert placed.findings == ()
    np.testing.assert_array_equal(placed.values.transpose(2, 1, 0), lesion())


def reasons(collected: Collected) -> list[str]:
    return [study.reason.id for study in collected.excluded]


def set_rules(collected: Collected) -> list[str]:
    return [remark.id for remark in collected.findings]


def test_beside_the_images(source, who, collecting):
    trace = diffusion(who)
    write(source, [*trace, segmentation(trace, lesion())])
    collected = collecting()
    assert_marks_the_lesion(collected)
    assert set_rules(collected) == []


def test_in_the_folder_of_masks(source, labels, who, collecting):
    trace = diffusion(who)
    write(source, trace)
    (path,) = write(labels / "deep" / "er", [segmentation(trace, lesion())])
    (labels / "notes.txt").write_text("no mask")
    collected = collecting(labels)
    assert_marks_the_lesion(collected)
    assert set_rules(collected) == []
    assert path in collected.studies[0].files


def test_in_an_archive(source, tmp_path, who, collecting):
    trace = diffusion(who)
    paths = write(tmp_path / "loose", [*trace, segmentation(trace, lesion())])
    with zipfile.ZipFile(source / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.name)
    assert_marks_the_lesion(collecting())


def test_copies_are_one_mask_and_others_are_several(source, labels, who, collecting):
    trace = diffusion(who)
    write(source, trace)
    label = segmentation(trace, lesion())
    (path,) = write(source / "seg", [label])
    shutil.copy(path, labels / "copy")
    assert_marks_the_lesion(collecting(labels))
    label.ContentLabel = "OTHER"
    write(labels, [label])
    collected = collecting(labels)
    assert reasons(collected) == ["label-ambiguous"]
    assert collected.excluded[0].reason.message.startswith("2 masks")


def test_drawn_on_the_b0_of_the_same_series(source, who, collecting):
    """One series is divided into b0 and trace; its label object names all of its images, or those of b0 alone."""
    trace, b0 = diffusion(who), diffusion(who, 0.0, seed=2)
    for number, image in enumerate([*b0, *trace]):
        image.SeriesInstanceUID, image.InstanceNumber = trace[0].SeriesInstanceUID, number + 1
    write(source, [*trace, *b0, segmentation(b0, lesion())])
    assert_marks_the_lesion(collecting())


@pytest.mark.parametrize("drawn_on", [0, 1, 3])
def test_drawn_on_what_a_trace_is_computed_from(source, who, collecting, drawn_on):
    directions = [
        diffusion(who, seed=number, DiffusionDirectionality="DIRECTIONAL", DiffusionGradientOrientation=list(direction))
        for number, direction in enumerate(DIRECTIONS)
    ]
    series = [*directions, diffusion(who, 0.0, seed=7)]
    write(source, [image for each in series for image in each])
    write(source / "seg", [segmentation(series[drawn_on], lesion())])
    collected = collecting()
    assert "trace-computed" in {remark.id for remark in collected.studies[0].images[0].findings}
    assert_marks_the_lesion(collected)


def test_a_label_object_in_a_study_of_its_own_is_no_study(source, who, collecting):
    trace = diffusion(who)
    write(source, [*trace, segmentation(trace, lesion(), StudyInstanceUID="1.2.3")])
    collected = collecting()
    assert_marks_the_lesion(collected)
    assert collected.excluded == ()


def test_other_radiotherapy_objects_are_no_masks(source, who, collecting):
    trace = diffusion(who)
    plan = structure_set(trace, {"x": []}, SOPClassUID=uid.RTPlanStorage, Modality="RTPLAN")
    write(source, [*trace, plan])
    collected = collecting()
    assert reasons(collected) == ["label-missing"]
    assert set_rules(collected) == []


def test_a_label_object_that_marks_no_voxels_is_told(source, who, collecting):
    trace = diffusion(who)
    surface = structure_set(trace, {"x": []}, SOPClassUID=uid.SurfaceSegmentationStorage, Modality="SEG")
    write(source, [*trace, surface])
    collected = collecting()
    assert reasons(collected) == ["label-missing"]
    assert set_rules(collected) == ["label-object-unknown"]


def test_a_damaged_label_object_is_told(source, who, collecting):
    trace = diffusion(who)
    label = segmentation(trace, lesion())
    label.SourceImageSequence[0].ReferencedFrameNumber = 77
    write(source, trace)
    (path,) = write(source / "seg", [label])
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0077", b"IS\x02\x00??"))
    collected = collecting()
    assert reasons(collected) == ["label-missing"]
    assert set_rules(collected) == ["label-object-damaged"]


def test_a_damaged_file_among_the_masks_is_told(source, labels, who, collecting):
    trace = diffusion(who)
    write(source, trace)
    (path,) = write(labels, [segmentation(trace, lesion())])
    path.write_bytes(path.read_bytes()[:150])
    collected = collecting(labels)
    assert reasons(collected) == ["label-missing"]
    assert set_rules(collected) == ["damaged-header"]


def test_a_label_object_that_goes_bad_meanwhile(source, who, collecting):
    trace = diffusion(who)
    write(source, trace)
    (path,) = write(source / "seg", [segmentation(trace, lesion())])
    (study,) = collecting().studies
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DataNotFit):
        study.mask.read(study.images[0])


def test_what_fits_none_of_a_studys_images_is_the_reason(source, who, collecting):
    trace = diffusion(who)
    flair = classic("MR", replace(GRID, step=4.0), who=replace(who, series=names().series))
    write(source, [*trace, *flair, segmentation(flair, lesion())])
    collected = collecting()
    assert reasons(collected) == ["label-wrong-reference"]
    assert set_rules(collected) == []


def test_the_masks_that_an_error_names_can_be_found_again(source, labels, who, collecting, pseudonyms):
    trace = diffusion(who)
    write(source, trace)
    (path,) = write(labels, [segmentation(trace, lesion())])
    file = write_nifti(labels / f"{trace[0].SeriesInstanceUID}_mask.nii", np.zeros((2, 2, 2), np.uint8), np.eye(4))
    collected = collecting(labels)
    assert reasons(collected) == ["label-ambiguous"]
    named = re.findall(r"s-\w+", collected.excluded[0].reason.message)
    found = [located.files for name in named for located in locate(labels, name, pseudonyms)]
    assert sorted(found) == sorted([((str(path), ""),), ((str(file), ""),)])


def test_a_study_goes_to_another_process_with_its_mask(source, who, collecting):
    trace = diffusion(who)
    write(source, [*trace, segmentation(trace, lesion())])
    (study,) = pickle.loads(pickle.dumps(collecting().studies))
    assert study.mask.read(study.images[0]).values.any()


def test_findings_name_the_image(source, who, collecting):
    trace = diffusion(who)
    outline = on_slice(GRID, 4.4, box((4, 4), (9, 9)))
    write(source, [*trace, structure_set(trace, {"x": [outline]})])
    (study,) = collecting().studies
    placed = study.mask.read(study.images[0])
    assert [(problem.id, problem.where) for problem in placed.findings] == [
        ("label-between-slices", study.images[0].id)
    ]
    assert not placed.fits
