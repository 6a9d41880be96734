"""Several images of one study: brought onto the first one's grid, and what is told about how they fit."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose
from support.bids_maker import Head, affine_of, head, write_nifti, write_subject

from fedsite.dataset import channels, convert, nifti
from fedsite.dataset.cases import Case, open_case
from fedsite.dataset.manifest import CaseRecord
from fedsite.dataset.sources import collect
from fedsite.tasks import registry, stroke_dwi
from fedsite.tasks.description import Channel, Task
from fedsite.tasks.steps.grid import RasSpacingd

FLAIR = Channel(name="flair", modality="MR", summary="FLAIR", bids_suffix="flair")
ADC = Channel(name="adc", modality="MR", summary="ADC", bids_suffix="adc", quantity="adc")
DWI = stroke_dwi.DESCRIPTION.channels[0]
TASK = dataclasses.replace(stroke_dwi.DESCRIPTION, name="two-images", channels=(DWI, FLAIR))


class TwoImages:
    """A task of two images (`registry.TaskModule`)."""

    DESCRIPTION: Task = TASK
    loss = staticmethod(stroke_dwi.loss)

    @staticmethod
    def preprocessing(task, spacing_mm):
        return Compose([RasSpacingd(("image", "label"), spacing_mm, ("bilinear", "nearest"))])


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(registry, "_modules", lambda: {TASK.name: TwoImages})


def other_contrast(content: Head, seed: int = 20) -> np.ndarray:
    """The same head, its brightness turned round: dark brain, bright scalp; other noise."""
    image = np.where(content.image > 60, 650 - 0.6 * content.image, content.image)
    noisy = image + np.random.default_rng(seed).normal(0, 8, image.shape)
    return np.where(content.image == 0, 0, noisy).astype(np.float32)


def moved(affine: np.ndarray, *millimetres: float) -> np.ndarray:
    result = affine.copy()
    result[:3, 3] += millimetres
    return result


# --- resampling -----------------------------------------------------------------------------------------------------


def test_resampling_keeps_what_lies_where():
    """An image of world coordinates, oblique to the grid: it must say of each voxel where that voxel is."""
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ affine_of((60, 64, 30), (2.0, 2.5, 4.0))
    indices = np.stack(np.meshgrid(*[np.arange(side) for side in (60, 64, 30)], indexing="ij"), -1)
    image = (indices @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    shape, onto = (30, 34, 12), affine_of((30, 34, 12), (3.0, 3.0, 5.0))
    for axis in range(3):
        found, covered = channels.resample(np.asfortranarray(image[..., axis]), affine, shape, onto)
        assert covered.all()
        wanted = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), -1)
        np.testing.assert_allclose(found, (wanted @ onto[:3, :3].T + onto[:3, 3])[..., axis], atol=2e-3)


def test_what_an_image_does_not_show_is_its_lowest_value(monkeypatch):
    monkeypatch.setattr(channels, "_SLAB_VOXELS", 64)
    affine = affine_of((20, 20, 20), (2.0, 2.0, 2.0))
    image = np.full((20, 20, 10), 7.0, np.float32)
    image[0, 0, 0] = -3
    found, covered = channels.resample(image, affine, (20, 20, 20), affine)
    assert covered[:, :, :10].all()
    assert not covered[:, :, 10:].any()
    assert (found[:, :, 10:] == -3).all()
    np.testing.assert_allclose(found[:, :, :10], image, atol=1e-3)


# --- how far the patient moved --------------------------------------------------------------------------------------

DIRECTIONS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, -0.8, 0), (-0.6, 0, 0.8)]


@pytest.mark.parametrize("stripped", [False, True], ids=["whole-head", "skull-stripped"])
@pytest.mark.parametrize("millimetres", [0, 1, 6, -9])
def test_a_shift_is_measured(stripped, millimetres):
    content = head(3, stripped)
    for direction in DIRECTIONS:
        shift = millimetres * np.array(direction)
        other, _ = channels.resample(
            other_contrast(content), moved(content.affine, *shift), content.image.shape, content.affine
        )
        measured = channels.shift_mm(content.image, other, content.affine)
        assert measured is not None
        if abs(millimetres) <= 1:
            assert measured < channels.SHIFT_MM - 1
        else:
            assert measured == pytest.approx(abs(millimetres), abs=1.5)


def test_a_shift_of_nothing_to_see_is_not_made_up():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 40, 44, 16)).astype(np.float32)
    assert (channels.shift_mm(one, other, affine_of()) or 0) < channels.SHIFT_MM
    assert channels.shift_mm(one[:, :, :2], other[:, :, :2], affine_of((40, 44, 2))) is None


def test_a_real_study(real_data):
    """ISLES'22: DWI, ADC (both 2 mm) and FLAIR (0.45 x 0.45 x 5 mm) of one patient, who kept still."""
    folder = real_data / "labels_isles22" / "strokecase0009" / "rawdata" / "sub-strokecase0009" / "ses-0001"
    paths = {name: folder / f"sub-strokecase0009_ses-0001_{name}.nii.gz" for name in ("dwi", "adc", "flair")}
    grids = {name: nifti.read_geometry(path) for name, path in paths.items()}
    assert {grid.frame for grid in grids.values()} == {"scanner"}
    dwi, affine = nifti.read_voxels(paths["dwi"]), grids["dwi"].affine
    for name in ("adc", "flair"):
        other = nifti.read_voxels(paths[name])
        for shift, expected in (((0, 0, 0), 0), ((0, 0, 6), 6), ((-4.5, 4, 0), 6)):
            placed, _ = channels.resample(other, moved(grids[name].affine, *shift), dwi.shape, affine)
            measured = channels.shift_mm(dwi, placed, affine)
            assert measured is not None
            assert (measured > channels.SHIFT_MM) == bool(expected)
            assert measured == pytest.approx(expected, abs=1.5)


# --- whole studies --------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(source, pseudonyms, tmp_path):
    """What becomes of the one study of the source."""

    def prepared(task: Task = TASK):
        (study,) = collect(source, None, task, pseudonyms).studies
        work = convert.Work(study, "training", "0" * 64)
        return convert.prepare_study(work, convert.Settings(TASK, (4.0, 4.0, 6.0), tmp_path)).outcome

    return prepared


def write_flair(source: Path, image: np.ndarray, affine: np.ndarray, name: str = "flair") -> Path:
    return write_nifti(source / "sub-one" / "anat" / f"sub-one_{name}.nii.gz", image, affine)


def finer(image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image with twice as many voxels along the first two axes."""
    half = affine @ np.diag([0.5, 0.5, 1, 1])
    half[:3, 3] -= (half[:3, 0] + half[:3, 1]) / 2
    return image.repeat(2, axis=0).repeat(2, axis=1), half


def rules(outcome) -> list[str]:
    return [remark.id for remark in outcome.findings]


def stored(record: CaseRecord, folder: Path) -> Case:
    return open_case(folder / record.file)


def test_a_channel_of_another_grid_is_resampled(source, prepared, tmp_path):
    content = head(2)
    write_subject(source, "one", content)
    write_flair(source, *finer(other_contrast(content), content.affine))
    record = prepared()
    assert rules(record) == []
    case = stored(record, tmp_path)
    assert case.image.shape == (2, *case.label.shape)
    lesion, tissue = case.label > 0, case.image[0] > 150
    # Bright in one, dark in the other, in the same place.
    assert case.image[0][lesion].mean() > 1.5 * case.image[0][tissue].mean()
    assert case.image[1][lesion].mean() < 0.7 * case.image[1][tissue].mean()


def test_a_channel_of_the_same_grid_is_taken_as_it_is(source, prepared, tmp_path):
    content = head(2)
    write_subject(source, "one", content)
    write_flair(source, other_contrast(content), content.affine)
    record = prepared()
    assert rules(record) == []
    turned = np.flip(other_contrast(content), 0)  # the maker's first axis runs to the left
    np.testing.assert_array_equal(stored(record, tmp_path).image[1], turned.astype(np.float16))


def test_where_coordinates_are_not_shared_a_channel_cannot_be_placed(source, prepared):
    content = head(2)
    write_subject(source, "one", content)
    path = write_flair(source, *finer(other_contrast(content), content.affine))
    image = nib.load(path)
    voxels, affine = np.asarray(image.dataobj), image.affine
    other = nib.Nifti1Image(voxels, affine)
    other.set_sform(affine, 2)
    other.set_qform(affine, 2)
    nib.save(other, path)
    assert rules(prepared()) == ["channel-on-other-grid"]


@pytest.mark.parametrize(("millimetres", "expected"), [(1, []), (6, ["channel-shifted"])])
def test_a_patient_who_moved_is_told(source, prepared, millimetres, expected):
    content = head(2)
    write_subject(source, "one", content)
    write_flair(source, other_contrast(content), moved(content.affine, 0, millimetres, 0))
    outcome = prepared()
    assert isinstance(outcome, CaseRecord)
    assert rules(outcome) == expected


def test_a_channel_that_shows_part_of_the_head_is_told(source, prepared):
    content = head(2)
    write_subject(source, "one", content)
    write_flair(source, other_contrast(content)[:, :, 3:], moved(content.affine, *(3 * content.affine[:3, 2])))
    outcome = prepared()
    assert isinstance(outcome, CaseRecord)
    assert rules(outcome) == ["channel-covers-partly"]


def test_a_channel_that_misses_the_lesion_is_told(source, prepared):
    content = head(2)
    mask = np.zeros_like(content.mask)
    mask[18:22, 20:24, 14] = 1
    write_subject(source, "one", dataclasses.replace(content, mask=mask))
    write_flair(source, other_contrast(content)[:, :, :14], content.affine)
    assert "channel-covers-partly" in rules(prepared())


def test_a_channel_that_lies_elsewhere_is_refused(source, prepared):
    content = head(2)
    write_subject(source, "one", content)
    write_flair(source, other_contrast(content), moved(content.affine, 0, 0, 60))
    assert rules(prepared()) == ["channel-on-other-grid"]


def test_one_with_and_one_without_the_skull_are_refused(source, prepared):
    write_subject(source, "one", head(2))
    stripped = head(2, stripped=True)
    write_flair(source, other_contrast(stripped), stripped.affine)
    assert rules(prepared()) == ["channel-in-other-state"]


def test_a_computed_map_says_nothing_about_the_skull(source, prepared):
    """A scanner leaves an ADC map zero where there was too little signal."""
    task = dataclasses.replace(TASK, channels=(TASK.channels[0], ADC))
    write_subject(source, "one", head(2))
    stripped = head(2, stripped=True)
    write_flair(source, stripped.image, stripped.affine, "adc")
    TwoImages.DESCRIPTION = task
    try:
        assert rules(prepared(task)) == []
    finally:
        TwoImages.DESCRIPTION = TASK


def test_a_channel_that_cannot_be_read(source, prepared):
    content = head(2)
    write_subject(source, "one", content)
    path = write_flair(source, np.full_like(content.image, 3), content.affine)
    assert rules(prepared()) == ["image-constant"]
    path.write_bytes(path.read_bytes()[:-200])
    assert rules(prepared()) == ["image-unreadable"]
