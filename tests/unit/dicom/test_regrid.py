"""Tilted and uneven slices on a regular grid: a known, smooth function comes out where it was put in."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support.dicom_maker import AXIAL, CORONAL, SAGITTAL, Grid, classic, decimals, write

from fedsite.dicom import regrid
from fedsite.dicom.checks import VolumeRefused
from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.dicom.voxels.reading import read_volume
from fedsite.errors import UsageError
from fedsite.site.pseudonyms import Pseudonyms

Scanned = Callable[..., Volume]
MIDDLE = 1500
BOTH = frozenset(regrid.CHOICES)


def head(points: np.ndarray) -> np.ndarray:
    """A smooth function of places in the patient (LPS, mm), in stored values."""
    x, y, z = np.moveaxis(points, -1, 0)
    return MIDDLE + 500 * np.sin(x / 9) + 400 * np.cos(y / 11) + 300 * np.sin(z / 10)


def sampled(grid: Grid, places: Sequence[float], modality: str = "CT") -> list[Dataset]:
    """The function's values on slices at these multiples of the grid's step."""
    images = classic(modality, grid, np.zeros((len(places), grid.rows, grid.columns), np.uint16))
    rows, columns = np.mgrid[: grid.rows, : grid.columns]
    for image, place in zip(images, places, strict=True):
        position = np.array(grid.position(place))
        image.ImagePositionPatient = decimals(position)
        points = (
            position
            + columns[..., None] * grid.between_columns * np.array(grid.row)
            + rows[..., None] * grid.between_rows * np.array(grid.column)
        )
        image.PixelData = np.rint(head(points)).astype(np.uint16).tobytes()
        if modality == "CT":
            image.RescaleIntercept = -MIDDLE
    return images


@pytest.fixture
def resampled(tmp_path: Path) -> Scanned:
    def single(images: list[Dataset], asked: frozenset[str] = BOTH) -> Volume:
        write(tmp_path, images)
        (volume,) = scan(tmp_path, Pseudonyms(b"k" * 32), resample=asked).volumes
        return volume

    return single


def errors_of(volume: Volume) -> list[str]:
    return [each.id for each in volume.findings if each.severity == "error"]


def deviation(volume: Volume, sides: tuple[slice, slice]) -> float:
    """How far the voxels are from the function at the places that the affine gives them, at most."""
    voxels = read_volume(volume)
    assert voxels.shape == volume.shape
    indices = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    points = (indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * (-1, -1, 1)
    inside = (*sides, slice(None))
    expected = head(points) - (MIDDLE if volume.modality == "CT" else 0)
    return float(np.abs(voxels - expected)[inside].max())


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, CORONAL])
def test_tilted_slices_stand_upright(resampled: Scanned, axes: tuple[Sequence[float], ...], modality: str) -> None:
    shear = np.array(axes[1]) * 2.0 * np.tan(np.radians(17))
    grid = Grid(40, 48, 24, axes[0], axes[1], step=2.0, shear=shear)
    volume = resampled(sampled(grid, range(24), modality))
    assert volume.verdict == "accepted"
    assert [each.id for each in volume.findings] == ["resampled-tilt"]
    assert "17.0 degrees" in volume.findings[0].message
    assert volume.shape == (40, 48 + round(np.ceil(23 * 2.0 * np.tan(np.radians(17)) / 0.8)), 24)
    directions = volume.affine[:3, :3] / volume.spacing
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    # Only what every slice covers: beyond a slice's border there is nothing to recover.
    lean = volume.shape[1] - 48
    assert deviation(volume, (slice(None), slice(lean + 1, 47))) < 2.5


def test_uneven_slices_get_even_steps(resampled: Scanned) -> None:
    places = np.cumsum([0, 1, 1, 1.3, 0.8, 1, 1.25, 1, 1, 0.7, 1, 1.4, 1, 1])
    volume = resampled(sampled(Grid(20, 20, step=2.0), places))
    assert [each.id for each in volume.findings] == ["resampled-uneven"]
    assert volume.shape == (20, 20, 14)
    np.testing.assert_allclose(volume.spacing, (0.5, 0.8, 2.0), atol=1e-9)
    # Linear interpolation: at most (1.4 steps)^2 / 8 times the second derivative, and the rounding of the input.
    assert deviation(volume, (slice(None), slice(None))) < 2.8**2 / 8 * 300 / 10**2 + 1


def test_both_at_once(resampled: Scanned) -> None:
    places = np.cumsum([0, 1, 1, 1.4, 1, 1, 1, 0.8, 1])
    grid = Grid(30, 60, step=2.0, shear=(0.4, 0.7, 0))
    volume = resampled(sampled(grid, places))
    assert [each.id for each in volume.findings] == ["resampled-tilt", "resampled-uneven"]
    assert deviation(volume, (slice(8, 29), slice(9, 59))) < 5


@pytest.mark.parametrize(("asked", "shear", "refusal"), [("uneven", 0.7, "tilt"), ("tilt", 0.0, "uneven-steps")])
def test_only_what_was_asked_for_is_mended(resampled: Scanned, asked: str, shear: float, refusal: str) -> None:
    places = [0, 1, 2, 3.4, 4.4, 5.4] if refusal == "uneven-steps" else range(6)
    volume = resampled(sampled(Grid(step=2.0, shear=(0, shear, 0)), places), frozenset({asked}))
    assert errors_of(volume) == [refusal]
    with pytest.raises(VolumeRefused):
        read_volume(volume)


def test_missing_slices_are_not_invented(resampled: Scanned) -> None:
    assert errors_of(resampled(sampled(Grid(step=2.0), [0, 1, 2, 4, 5, 6]))) == ["missing-slices"]


def test_a_gap_among_uneven_slices_is_no_unevenness(resampled: Scanned) -> None:
    assert errors_of(resampled(sampled(Grid(step=2.0), [0, 1, 2.1, 3, 5.2, 6.2, 7]))) == ["uneven-steps"]


def test_a_shear_that_no_gantry_has_stays_refused(resampled: Scanned) -> None:
    assert errors_of(resampled(sampled(Grid(step=1.0, shear=(0, 1.5, 0)), range(6)))) == ["tilt"]


def test_a_grid_that_outgrows_the_slices_stays_refused(resampled: Scanned) -> None:
    grid = Grid(8, 8, 6, between_rows=0.03, between_columns=0.03, step=10.0, shear=(0, 3.0, 0))
    assert errors_of(resampled(sampled(grid, range(6)))) == ["tilt"]


def test_a_clean_series_is_left_as_it_is(resampled: Scanned) -> None:
    images = classic("CT")
    volume = resampled(images)
    assert (volume.regrid, volume.findings) == (None, ())
    np.testing.assert_array_equal(read_volume(volume)[..., 0].T, images[0].pixel_array.astype(np.float32) - 1024)


def test_slices_shifted_by_whole_voxels_are_copied(resampled: Scanned) -> None:
    grid = Grid(20, 20, 6, step=2.0, shear=(0.5, 0.8, 0))
    images = sampled(grid, range(6))
    voxels = read_volume(resampled(images))
    for index, image in enumerate(images):
        np.testing.assert_array_equal(
            voxels[index : index + 20, index : index + 20, index].T, image.pixel_array - float(MIDDLE)
        )


def test_a_mask_follows_its_image(resampled: Scanned) -> None:
    grid = Grid(30, 30, 12, step=2.0, shear=(0, 0.7, 0))
    volume = resampled(sampled(grid, range(12)))
    assert volume.regrid is not None
    assert volume.regrid.acquired_affine is not None
    np.testing.assert_allclose(volume.regrid.acquired_affine, grid.affine, atol=1e-6)
    # A ball of 4 mm around a place, drawn on the tilted slices.
    centre = np.array(grid.affine @ [15, 14, 6, 1])[:3]
    drawn = _ball(volume.regrid.acquired_shape, volume.regrid.acquired_affine, centre)
    mask = regrid.apply_labels(volume.regrid, 2 * drawn.astype(np.uint8))
    assert set(np.unique(mask)) == {0, 2}
    expected = _ball(volume.shape, volume.affine, centre)
    overlap = 2 * (expected & (mask == 2)).sum() / (expected.sum() + (mask == 2).sum())
    assert overlap > 0.95


def _ball(shape: tuple[int, ...], affine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.linalg.norm(indices @ affine[:3, :3].T + affine[:3, 3] - centre, axis=-1) <= 4


def test_what_can_be_asked_for() -> None:
    assert regrid.chosen("") == frozenset()
    assert regrid.chosen("tilt, uneven") == BOTH
    with pytest.raises(UsageError) as raised:
        regrid.chosen("tilt,unevn")
    assert raised.value.mend == "Did you mean uneven?"
