"""Voxels: every way in which they are stored gives the same values on the same grid."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from support.dicom_maker import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Grid,
    change,
    classic,
    compress,
    enhanced,
    head,
    set_pixels,
    write,
)

from fedsite.dicom.checks import VolumeRefused
from fedsite.dicom.model import Inventory, Volume
from fedsite.dicom.scan import scan
from fedsite.dicom.volume import duplicates
from fedsite.dicom.voxels.reading import read_volume
from fedsite.errors import SourceMissing
from fedsite.site.pseudonyms import Pseudonyms

Only = Callable[..., Volume]
GRID = Grid(columns=40, rows=32, slices=4)


def as_array(stored: np.ndarray) -> np.ndarray:
    """[slice, row, column] as made to [column, row, slice] as read."""
    return stored.transpose(2, 1, 0).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([AXIAL, SAGITTAL, CORONAL]), st.booleans())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_voxel_lies_where_its_header_says(
    tmp_path_factory: pytest.TempPathFactory, seed: int, axes: tuple[tuple[float, ...], ...], multi: bool
) -> None:
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(np.column_stack([*axes, np.cross(*axes)]) + 0.1 * random.standard_normal((3, 3)))[0]
    signs = np.sign((turn[:, :2] * np.column_stack(axes)).sum(axis=0))
    row, column = (turn[:, :2] * signs).T
    sides = random.integers(3, 9, 3)
    grid = Grid(*map(int, sides), row, column, *random.uniform(0.3, 5, 3), random.uniform(-200, 200, 3))
    voxels = grid.voxels(seed)
    folder = tmp_path_factory.mktemp("series")
    write(folder, [enhanced("MR", [grid], voxels=voxels)] if multi else classic("MR", grid, voxels), seed=seed)
    (volume,) = scan(folder, Pseudonyms(b"k" * 32)).volumes
    assert volume.shape == (grid.columns, grid.rows, grid.slices)
    np.testing.assert_allclose(volume.affine, grid.affine, atol=1e-5)
    np.testing.assert_array_equal(read_volume(volume), as_array(voxels))


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8, np.uint32])
def test_uncompressed_syntaxes(only: Only, syntax: str, dtype: type) -> None:
    stored = (GRID.voxels() % 200).astype(dtype)
    stored = stored - 100 if np.dtype(dtype).kind == "i" else stored
    images = classic("MR", GRID, stored)
    for image, plane in zip(images, stored, strict=True):
        set_pixels(image, plane, bits_stored=32)
    np.testing.assert_array_equal(read_volume(only(images, syntax=syntax)), as_array(stored))


LOSSLESS = [
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_lossless_compression_gives_the_same_voxels(only: Only, syntax: str, dtype: type) -> None:
    limits = np.iinfo(dtype)
    stored = np.random.default_rng(4).integers(limits.min // 2, limits.max // 2, (4, 32, 40)).astype(dtype)
    images = classic("MR", GRID, stored)
    for image, plane in zip(images, stored, strict=True):
        set_pixels(image, plane, bits_stored=16)
    np.testing.assert_array_equal(read_volume(only(compress(images, syntax))), as_array(stored))


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_twelve_bits_with_a_sign_survive_compression(only: Only, syntax: str) -> None:
    stored = GRID.voxels().astype(np.int16) - 2048
    np.testing.assert_array_equal(read_volume(only(compress(classic("MR", GRID, stored), syntax))), as_array(stored))


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_compressed_frames_of_one_object_are_told_apart(scanned: Callable[..., Inventory], syntax: str) -> None:
    grids, stored = [GRID, GRID], np.stack([GRID.voxels(1), GRID.voxels(2)], axis=1)
    groups = [{"MREchoSequence": {"EffectiveEchoTime": float(echo)}} for echo in (10, 80)]
    volumes = scanned(compress([enhanced("MR", grids, groups, stored)], syntax)).volumes
    assert len(volumes) == 2
    read = {round(float(read_volume(volume).mean()), 3): read_volume(volume) for volume in volumes}
    for index in (0, 1):
        expected = as_array(stored[:, index])
        np.testing.assert_array_equal(read[round(float(expected.mean()), 3)], expected)


@pytest.mark.parametrize(
    ("syntax", "options", "tolerance"),
    [
        (uid.JPEGLSNearLossless, {"jls_error": 2}, 2),
        (uid.JPEG2000, {"j2k_cr": [4]}, 120),
        (uid.JPEGBaseline8Bit, {}, 12),
    ],
)
def test_lossy_compression_stays_near(only: Only, syntax: str, options: dict[str, object], tolerance: int) -> None:
    ramp = np.add.outer(np.arange(GRID.rows) * 3, np.arange(GRID.columns) * 3)
    stored = np.stack([ramp + index for index in range(GRID.slices)]).astype(np.uint8)
    if syntax != uid.JPEGBaseline8Bit:
        stored = stored.astype(np.uint16) * 16
    volume = only(compress(classic("MR", GRID, stored), syntax, **options))
    assert "lossy-compression" in {each.id for each in volume.findings} or syntax == uid.JPEG2000
    np.testing.assert_allclose(read_volume(volume), as_array(stored), atol=tolerance)


def test_unused_bits_are_no_part_of_the_value(only: Only) -> None:
    stored = GRID.voxels()
    images = classic("MR", GRID, stored)
    for image, plane in zip(images, stored, strict=True):
        image.PixelData = (plane | 0xA000).tobytes()  # an overlay in the high bits
    np.testing.assert_array_equal(read_volume(only(images)), as_array(stored))


def test_the_sign_is_that_of_the_stored_bits(only: Only) -> None:
    stored = GRID.voxels().astype(np.int16) - 2048
    images = classic("MR", GRID, stored)
    for image, plane in zip(images, stored, strict=True):
        image.PixelData = (plane.view(np.uint16) & 0x0FFF).tobytes()
    np.testing.assert_array_equal(read_volume(only(images)), as_array(stored))


def test_the_high_bit_says_where_the_value_is(only: Only) -> None:
    stored = GRID.voxels()
    images = classic("MR", GRID, stored)
    for image, plane in zip(images, stored, strict=True):
        image.PixelData, image.HighBit = (plane << 4 | 5).tobytes(), 15
    np.testing.assert_array_equal(read_volume(only(images)), as_array(stored))


def test_every_slice_has_its_own_scale(only: Only) -> None:
    stored = GRID.voxels()
    images = classic("CT", GRID, stored)
    expected = as_array(stored)
    for index, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = str(0.5 + index), str(-1000 + index)
        expected[..., index] = expected[..., index] * (0.5 + index) - 1000 + index
    volume = only(images)
    assert not volume.is_integral
    np.testing.assert_allclose(read_volume(volume), expected, rtol=1e-6)


def test_half_of_an_mr_rescale_is_taken_at_its_word(only: Only) -> None:
    stored = GRID.voxels()
    np.testing.assert_array_equal(
        read_volume(only(classic("MR", GRID, stored, RescaleSlope="2"))), 2 * as_array(stored)
    )


@pytest.mark.parametrize("syntax", [each for each in LOSSLESS if each != uid.RLELossless])
def test_a_frame_of_another_size_than_the_header_says(only: Only, syntax: str) -> None:
    images = compress(classic("MR", GRID), syntax)
    for image in images:
        image.Rows = GRID.rows + 8
    with pytest.raises(VolumeRefused, match="cannot be decoded"):
        read_volume(only(images))


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("copied", [False, True])
def test_a_few_bytes_are_no_large_image(only: Only, monkeypatch: pytest.MonkeyPatch, syntax: str, copied: bool) -> None:
    """The header alone refuses it: nothing is decoded, not even to compare copies."""
    decoded: list[object] = []
    monkeypatch.setattr(duplicates, "stored_planes", lambda *asked: decoded.append(asked))
    images = compress(classic("MR", GRID), syntax)
    for image in images:
        image.Rows = image.Columns = 20_000
        image.ImagePositionPatient = images[0].ImagePositionPatient if copied else image.ImagePositionPatient
    volume = only(images)
    assert "wrong-length" in {each.id for each in volume.findings}
    assert (volume.verdict, decoded) == ("refused", [])


def test_inverted_display_leaves_values_alone(only: Only) -> None:
    stored = GRID.voxels()
    volume = only(classic("CT", GRID, stored, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(read_volume(volume), as_array(stored) - 1024)


def test_a_modality_lut_is_applied(only: Only) -> None:
    stored = GRID.voxels() % 256
    table = np.random.default_rng(5).integers(0, 60_000, 256, np.uint16)
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [256, 0, 16], "US"
    lut.add_new("LUTData", "OW", table.tobytes())
    images = classic("MR", GRID, stored)
    for image in images:
        change(image, {"ModalityLUTSequence": Sequence([lut])})
    volume = only(images)
    assert not volume.is_integral
    np.testing.assert_array_equal(read_volume(volume), as_array(table[stored]))


def test_padding_keeps_its_value_and_is_no_fault_of_a_ct(only: Only) -> None:
    grid = Grid(columns=40, rows=40, slices=4)
    stored = head(grid).astype(np.int16) - 1024
    stored[:, :12] = -32768  # named
    stored[:, :, :4] = -2000  # not named
    images = classic("CT", grid, stored, RescaleIntercept=0, PixelPaddingValue=-32768)
    for image, plane in zip(images, stored, strict=True):
        set_pixels(image, plane, bits_stored=16)
    np.testing.assert_array_equal(read_volume(only(images)), as_array(stored))


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("named", "expected"), [((-2000, None), (-2000, -2000)), ((-1990, -2000), (-2000, -1990)), ((None, -1990), None)]
)
def test_padding_as_the_header_names_it(
    only: Only, syntax: str, named: tuple[int | None, int | None], expected: tuple[int, int] | None
) -> None:
    stored = GRID.voxels().astype(np.int16)
    images = classic("MR", GRID, stored, PixelPaddingValue=named[0], PixelPaddingRangeLimit=named[1])
    assert {frame.instance.pixels.padding for frame in only(images, syntax=syntax).frames} == {expected}


def test_padding_written_without_its_sign(only: Only) -> None:
    images = classic("MR", GRID, GRID.voxels().astype(np.int16))
    for image in images:
        image.add_new("PixelPaddingValue", "US", 63536)
    assert {frame.instance.pixels.padding for frame in only(images).frames} == {(-2000, -2000)}


def test_a_file_that_went_away(only: Only, tmp_path: Path) -> None:
    volume = only(classic())
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(SourceMissing, match=volume.id):
        read_volume(volume)


def test_a_file_that_shrank_after_the_scan(only: Only, tmp_path: Path) -> None:
    volume = only(classic())
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(VolumeRefused, match="cannot be decoded"):
        read_volume(volume)


def test_a_refused_volume_is_not_read(only: Only) -> None:
    with pytest.raises(VolumeRefused, match="fewer than 3") as refusal:
        read_volume(only(classic(grid=Grid(slices=2))))
    assert [each.id for each in refusal.value.findings] == ["too-few-slices"]


def test_the_array_is_no_copy_with_contiguous_slices(scanned: Callable[..., Inventory]) -> None:
    voxels = read_volume(scanned(classic()).volumes[0])
    assert voxels.dtype == np.float32
    assert voxels.flags.f_contiguous
