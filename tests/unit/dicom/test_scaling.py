"""Which scale applies: slope and intercept, Philips' own, or a map of real-world values; and whether HU can be HU."""

from collections.abc import Callable

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support.dicom_maker import Grid, classic, enhanced, head, real_world_values, set_pixels

from fedsite.dicom.checks import VolumeRefused
from fedsite.dicom.model import Volume
from fedsite.dicom.voxels import hounsfield
from fedsite.dicom.voxels.reading import read_volume

Only = Callable[..., Volume]
PHILIPS = "Philips Medical Systems"
GRID = Grid(columns=6, rows=5, slices=4)
STORED = GRID.voxels()


def scaled(slope: float, intercept: float) -> np.ndarray:
    return STORED.transpose(2, 1, 0) * float(slope) + intercept


def unused(volume: Volume) -> bool:
    return "real-world-values-unused" in {each.id for each in volume.findings}


@pytest.mark.parametrize("maker", ["SIEMENS", PHILIPS])
def test_slope_and_intercept_win(only: Only, maker: str) -> None:
    maps = real_world_values(3, 1)
    scale = {"RescaleSlope": 2, "RescaleIntercept": 5, "RealWorldValueMappingSequence": maps}
    volume = only(classic("MR", GRID, STORED, Manufacturer=maker, **scale))
    np.testing.assert_allclose(read_volume(volume), scaled(2, 5))
    assert unused(volume)


def test_a_map_that_agrees_says_nothing_new(only: Only) -> None:
    maps = real_world_values(2, 5)
    volume = only(classic("MR", GRID, STORED, RescaleSlope=2, RescaleIntercept=5, RealWorldValueMappingSequence=maps))
    assert volume.findings == ()


def test_a_map_of_philips_stands_in_for_slope_and_intercept(only: Only) -> None:
    volume = only(
        classic("MR", GRID, STORED, Manufacturer=PHILIPS, RealWorldValueMappingSequence=real_world_values(2.5, 10))
    )
    np.testing.assert_allclose(read_volume(volume), scaled(2.5, 10))
    assert volume.findings == ()


def test_the_map_of_others_is_told_of(only: Only) -> None:
    volume = only(classic("MR", GRID, STORED, RealWorldValueMappingSequence=real_world_values(2.5, 10)))
    np.testing.assert_array_equal(read_volume(volume), scaled(1, 0))
    assert unused(volume)


def test_slices_that_only_their_maps_make_comparable(only: Only) -> None:
    image = enhanced("MR", [GRID], voxels=STORED)
    for index, item in enumerate(image.PerFrameFunctionalGroupsSequence):
        item.RealWorldValueMappingSequence = real_world_values(1 + index, 0)
    volume = only([image])
    expected = STORED.transpose(2, 1, 0) * np.arange(1, 1 + GRID.slices)
    np.testing.assert_allclose(read_volume(volume), expected)
    assert {each.id for each in volume.findings} == {"rescale-varying"}


def test_a_table_of_real_world_values_is_not_used(only: Only) -> None:
    item = Dataset()
    item.RealWorldValueLUTData = [0.5] * 8
    volume = only(classic("MR", GRID, STORED, Manufacturer=PHILIPS, RealWorldValueMappingSequence=[item]))
    np.testing.assert_array_equal(read_volume(volume), scaled(1, 0))
    assert unused(volume)


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [({"RescaleSlope": 2, "RescaleIntercept": 5}, (100, 250)), ({}, (100, 0))],
)
def test_philips_scale_is_the_private_one(only: Only, rescale: dict[str, int], expected: tuple[float, float]) -> None:
    images = classic("MR", GRID, STORED, Manufacturer=PHILIPS, **rescale)
    for image in images:
        image.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.01)
    np.testing.assert_allclose(read_volume(only(images)), scaled(*expected), rtol=1e-6)


def test_the_same_number_of_another_vendor_is_none(only: Only) -> None:
    images = classic("MR", GRID, STORED)
    for image in images:
        image.private_block(0x2005, "SOMEBODY ELSE", create=True).add_new(0x0E, "FL", 0.01)
    np.testing.assert_array_equal(read_volume(only(images)), scaled(1, 0))


HEAD = Grid(columns=48, rows=48, slices=6)
HU = head(HEAD).astype(np.float32) - 1024
PADDED = np.where(np.arange(48) < 12, -32768, HU)
METAL = np.where(np.random.default_rng(3).random(HU.shape) < 0.004, 30_000, HU)
BRAIN = np.where(np.abs(HU - 35) < 60, HU, 0)
LOSSY = np.where(np.arange(48) < 12, -2000 + np.random.default_rng(3).normal(0, 3, HU.shape), HU)


@pytest.mark.parametrize(
    "values",
    {
        "head": HU,
        "clipped": np.clip(HU, -1024, 3071),
        "padded": PADDED,
        "padded, compressed with loss": LOSSY,
        "metal": METAL,
        "metal and its streaks": np.where(METAL > 4000, -4000, METAL),
        "brain extracted": BRAIN,
        "brain cropped": HU[:, 18:30, 18:30],
        "thin and noisy": HU + np.random.default_rng(3).normal(0, 80, HU.shape),
        "nothing but air": np.random.default_rng(3).normal(-1000, 10, HU.shape),
        "any value": np.random.default_rng(3).integers(-1024, 3072, HU.shape),
        "empty": np.empty(0),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_can_be_hounsfield_units(values: tuple[str, np.ndarray]) -> None:
    assert hounsfield.doubt(values[1].astype(np.float32).ravel()) == ""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (HU + 1024, "bone"),
        (np.maximum(HU + 1000, 0), "bone"),
        (np.where(PADDED < -2000, PADDED, HU + 1024), "bone"),
        (HU[:, 12:36, 12:36] + 1024, "nearly all is as dense as bone"),
        (HU[:, 6:42, 6:42] + 1024, "soft tissue lies where bone should"),
        (2 * (HU + 1024) - 1024, "soft tissue lies where bone should"),
        (HU - 1024, "less dense than air"),
        (np.maximum(HU - 1024, -2030), "less dense than air"),
        (10 * (HU + 1024) - 1024, "as dense as metal"),
        (HU + 8192, "as dense as metal"),
    ],
)
def test_what_cannot_be_hounsfield_units(values: np.ndarray, reason: str) -> None:
    assert reason in hounsfield.doubt(values.astype(np.float32).ravel())


def test_an_intercept_that_was_lost_is_found_when_the_volume_is_read(only: Only) -> None:
    volume = only(classic("CT", HEAD, head(HEAD), RescaleIntercept=0))
    assert volume.verdict == "accepted"
    with pytest.raises(VolumeRefused) as refusal:
        read_volume(volume)
    assert [each.id for each in refusal.value.findings] == ["hu-out-of-range"]


@pytest.mark.parametrize("slope", ["0.0001", "1000", "-1"])
def test_an_absurd_slope_is_found_in_the_header(only: Only, slope: str) -> None:
    assert {each.id for each in only(classic("CT", HEAD, head(HEAD), RescaleSlope=slope)).findings} == {
        "hu-out-of-range"
    }


def test_a_series_that_loads_is_not_doubted(only: Only) -> None:
    stored = head(HEAD).astype(np.int16)
    images = classic("CT", HEAD, stored)
    for image, plane in zip(images, stored, strict=True):
        set_pixels(image, np.where(np.arange(48) < 12, -2000, plane).astype(np.int16), bits_stored=16)
        image.PixelPaddingValue = -2000
    assert read_volume(only(images)).min() == -3024
