"""A tilted or uneven series and the mask that was drawn on it: refused, or brought onto one regular grid."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.bids_maker import write_nifti
from support.dicom_maker import Grid, classic, decimals, names, write

from fedsite.dataset import dicom_source
from fedsite.dataset.prepare import Request, prepare
from fedsite.dataset.studies import Collected
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks.description import Task

GRID = Grid(20, 24, 10, between_rows=8.0, between_columns=8.0, step=12.0, shear=(0, 3.0, 0))
BALL = (slice(8, 13), slice(9, 14), slice(4, 7))

Collecting = Callable[..., Collected]


@pytest.fixture
def collecting(source: Path, tmp_path: Path, task: Task, pseudonyms: Pseudonyms) -> Collecting:
    def write_and_collect(grid: Grid, places: Sequence[float], resample: str, affine: np.ndarray) -> Collected:
        who = names()
        stored = np.full((len(places), grid.rows, grid.columns), 100, np.uint16)
        stored.transpose(2, 1, 0)[BALL] = 900
        images = classic("MR", grid, stored, who, ImageType=["DERIVED", "PRIMARY", "TRACEW"], DiffusionBValue=1000.0)
        for image, place in zip(images, places, strict=True):
            image.ImagePositionPatient = decimals(grid.position(place))
        write(source, images)
        mask = np.zeros((grid.columns, grid.rows, len(places)), np.uint8)
        mask[BALL] = 1
        (tmp_path / "labels").mkdir()
        write_nifti(tmp_path / "labels" / f"{who.series}_mask.nii.gz", mask, affine)
        asked = frozenset(resample.split()) if resample else frozenset()
        return dicom_source.collect(source, tmp_path / "labels", task, pseudonyms, resample=asked)

    return write_and_collect


def test_image_and_mask_of_a_tilted_series_come_onto_one_grid(collecting: Collecting) -> None:
    (study,) = collecting(GRID, range(10), "tilt", GRID.affine).studies
    (image,) = study.images
    assert {remark.id for remark in image.findings} >= {"resampled-tilt"}
    assert image.shape == (20, 24 + 4, 10)
    voxels, placed = image.read(), study.mask.read(image)
    assert placed.fits
    assert placed.values.shape == voxels.shape
    # The half of the lesion's height is where the mask ends.
    np.testing.assert_array_equal(placed.values > 0, voxels >= 499.9)


def test_without_being_asked_a_tilted_series_is_refused(collecting: Collecting) -> None:
    collected = collecting(GRID, range(10), "", GRID.affine)
    assert [remark.id for remark in collected.excluded[0].findings] == ["channel-missing", "tilt"]


def test_a_mask_on_the_upright_grid_is_taken_as_it_is(collecting: Collecting) -> None:
    upright = Grid(**{**vars(GRID), "shear": (0, 0, 0)})
    collected = collecting(GRID, range(10), "tilt", upright.affine)
    placed = collected.studies[0].mask.read(collected.studies[0].images[0])
    assert [remark.id for remark in placed.findings] == ["label-other-grid"]


def test_what_no_affine_describes_cannot_carry_a_nifti_mask(collecting: Collecting) -> None:
    straight = Grid(**{**vars(GRID), "shear": (0, 0, 0)})
    places = [0, 1, 2, 3.4, 4.4, 5.4, 6.4, 7.4, 8.4, 9.4]
    (study,) = collecting(straight, places, "uneven", straight.affine).studies
    (problem,) = study.mask.read(study.images[0]).findings
    assert problem.id == "label-other-grid"
    assert "uneven" in problem.message


def test_a_mask_of_something_else_stays_refused(collecting: Collecting) -> None:
    elsewhere = GRID.affine.copy()
    elsewhere[0, 3] += 5
    (study,) = collecting(GRID, range(10), "tilt", elsewhere).studies
    assert [remark.id for remark in study.mask.read(study.images[0]).findings] == ["label-other-grid"]


def test_the_manifest_says_what_was_resampled(
    collecting: Collecting, tmp_path: Path, task: Task, pseudonyms: Pseudonyms
) -> None:
    collected = collecting(GRID, range(10), "tilt", GRID.affine)
    request = Request(task, (8.0, 8.0, 8.0), validation_fraction=0.0)
    (case,) = prepare(collected, tmp_path / "out", request, pseudonyms).manifest.cases
    (remark,) = (remark for remark in case.findings if remark.id == "resampled-tilt")
    assert "14.0 degrees" in remark.message
    assert case.source_shape == (20, 28, 10)
    assert case.lesion_ml == pytest.approx(5 * 5 * 3 * 8 * 8 * 12 / 1000, rel=0.15)
