"""Clean series, generated and real, with one fault planted in each: refused for it, or read as if nothing were."""

import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from support.dicom_maker import Grid, classic, compress, decimals, enhanced, write

from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.dicom.voxels.reading import read_volume
from fedsite.site.pseudonyms import Pseudonyms

SLICES = 6
GENERATED = {
    "generated CT": lambda: classic("CT", Grid(columns=20, rows=16, slices=SLICES)),
    "generated MR": lambda: classic("MR", Grid(columns=20, rows=16, slices=SLICES)),
    "generated enhanced CT": lambda: [enhanced("CT", [Grid(columns=20, rows=16, slices=SLICES)])],
    "generated enhanced MR": lambda: [enhanced("MR", [Grid(columns=20, rows=16, slices=SLICES)])],
}
REAL = {
    "real CT": "ct_philips/brain_5mm",
    "real MR": "mr_siemens_decubitus/t1_sag_hfs",
    "real enhanced MR": "mr_siemens_xa30/t1w_enhanced",
}
Images = list[Dataset]


@pytest.fixture(scope="module", params=[*GENERATED, *REAL])
def clean(request: pytest.FixtureRequest) -> Images:
    """A clean series of a few slices."""
    if request.param in GENERATED:
        return GENERATED[request.param]()
    folder: Path = request.getfixturevalue("real_data") / REAL[request.param]
    images = [pydicom.dcmread(path) for path in sorted(folder.iterdir()) if path.suffix != ".txt"]
    images = [image for image in images if "PixelData" in image]
    if len(images) == 1:
        return [_first_frames(images[0], SLICES)]
    return sorted(images, key=_height)[:SLICES]


@pytest.fixture
def series(clean: Images) -> Images:
    """A copy to spoil."""
    return deepcopy(clean)


@pytest.fixture
def scanned(tmp_path: Path) -> Callable[[], Volume]:
    def single() -> Volume:
        (volume,) = scan(tmp_path, Pseudonyms(b"k" * 32)).volumes
        return volume

    return single


@pytest.fixture(scope="module")
def voxels(clean: Images, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the clean series holds."""
    folder = tmp_path_factory.mktemp("clean")
    write(folder, deepcopy(clean))
    (volume,) = scan(folder, Pseudonyms(b"k" * 32)).volumes
    assert (volume.verdict, volume.shape[2]) == ("accepted", SLICES)
    return read_volume(volume)


def _first_frames(image: Dataset, count: int) -> Dataset:
    image.PixelData = image.PixelData[: count * image.Rows * image.Columns * image.BitsAllocated // 8]
    image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[:count]
    image.NumberOfFrames = count
    return image


def _planes(images: Images) -> Images:
    """What holds each slice's position: the image itself, or an item of its functional groups."""
    if "PerFrameFunctionalGroupsSequence" not in images[0]:
        return images
    return [item.PlanePositionSequence[0] for item in images[0].PerFrameFunctionalGroupsSequence]


def _orientations(images: Images) -> Images:
    if "PerFrameFunctionalGroupsSequence" not in images[0]:
        return images
    groups = images[0].PerFrameFunctionalGroupsSequence
    for item in groups:
        if "PlaneOrientationSequence" not in item:
            shared = images[0].SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
            item.PlaneOrientationSequence = deepcopy(shared)
    return [item.PlaneOrientationSequence[0] for item in groups]


def _axes(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Column direction and normal."""
    values = np.array(_orientations(images)[0].ImageOrientationPatient, float)
    return values[3:], np.cross(values[:3], values[3:])


def _height(image: Dataset) -> float:
    return float(np.array(image.ImagePositionPatient, float) @ _axes([image])[1])


def _move(images: Images, index: int, by: np.ndarray) -> None:
    plane = _planes(images)[index]
    plane.ImagePositionPatient = decimals(np.array(plane.ImagePositionPatient, float) + by)


def _step(images: Images) -> float:
    positions = np.array([plane.ImagePositionPatient for plane in _planes(images)], float)
    return float(np.abs(np.diff(positions @ _axes(images)[1])).mean())


def _without(images: Images, index: int) -> Images:
    if len(images) > 1:
        return images[:index] + images[index + 1 :]
    (image,) = images
    size = len(image.PixelData) // image.NumberOfFrames
    image.PixelData = image.PixelData[: index * size] + image.PixelData[(index + 1) * size :]
    del image.PerFrameFunctionalGroupsSequence[index]
    image.NumberOfFrames -= 1
    return images


def _errors(volume: Volume) -> list[str]:
    return [each.id for each in volume.findings if each.severity == "error"]


def test_dropped(series: Images, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    write(tmp_path, _without(series, SLICES // 2))
    assert _errors(scanned()) == ["missing-slices"]


def test_too_many_dropped(series: Images, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    for _ in range(SLICES - 2):
        series = _without(series, 0)
    write(tmp_path, series)
    assert _errors(scanned()) == ["too-few-slices"]


def test_tilted(series: Images, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    step, column = _step(series), _axes(series)[0]
    for index in range(SLICES):
        _move(series, index, 0.1 * index * step * column)
    write(tmp_path, series)
    volume = scanned()
    assert _errors(volume) == ["tilt"]
    assert "5.7 degrees" in next(each.message for each in volume.findings if each.id == "tilt")


@pytest.mark.parametrize(("direction", "rule"), [(1, "uneven-steps"), (0, "shifted-slices")])
def test_jittered(series: Images, tmp_path: Path, scanned: Callable[[], Volume], direction: int, rule: str) -> None:
    _move(series, 2, 0.1 * _step(series) * _axes(series)[direction])
    write(tmp_path, series)
    assert _errors(scanned()) == [rule]


def test_one_slice_turned(series: Images, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    plane = _orientations(series)[2]
    plane.ImageOrientationPatient = [*plane.ImageOrientationPatient[3:], *plane.ImageOrientationPatient[:3]]
    write(tmp_path, series)
    assert _errors(scanned()) == ["mixed-orientation"]


def test_truncated(series: Images, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    path = write(tmp_path, series)[-1]
    path.write_bytes(path.read_bytes()[:-100])
    assert _errors(scanned()) == ["truncated-pixels"]


def test_one_slice_twice_with_other_pixels(series: Images, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    copy = deepcopy(series[-1])
    copy.SOPInstanceUID = uid.generate_uid()
    copy.PixelData = bytes([copy.PixelData[0] ^ 1]) + copy.PixelData[1:]
    write(tmp_path, [*series, copy])
    assert _errors(scanned()) == ["duplicate-positions"]


def test_sent_twice(series: Images, voxels: np.ndarray, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    again = deepcopy(series)
    for image in again:
        image.SOPInstanceUID = uid.generate_uid()
    write(tmp_path, [*series, *again])
    volume = scanned()
    assert _errors(volume) == []
    assert "identical-duplicates" in {each.id for each in volume.findings}
    np.testing.assert_array_equal(read_volume(volume), voxels)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless])
def test_recompressed(
    series: Images, voxels: np.ndarray, tmp_path: Path, scanned: Callable[[], Volume], syntax: str
) -> None:
    write(tmp_path, compress(series, syntax))
    volume = scanned()
    assert _errors(volume) == []
    np.testing.assert_array_equal(read_volume(volume), voxels)


def test_split_into_zip_archives(
    series: Images, voxels: np.ndarray, tmp_path: Path, scanned: Callable[[], Volume]
) -> None:
    for number, path in enumerate(write(tmp_path, series)):
        with zipfile.ZipFile(tmp_path / f"export{number % 2}.zip", "a", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, f"DICOM/{path.name}")
        path.unlink()
    volume = scanned()
    assert _errors(volume) == []
    np.testing.assert_array_equal(read_volume(volume), voxels)


def test_hounsfield_units_need_their_scale(series: Images, tmp_path: Path, scanned: Callable[[], Volume]) -> None:
    for image in series:
        for holder in (image, *image.get("SharedFunctionalGroupsSequence", ())):
            for keyword in ("RescaleSlope", "RescaleIntercept", "PixelValueTransformationSequence"):
                if keyword in holder:
                    delattr(holder, keyword)
    write(tmp_path, series)
    volume = scanned()
    assert _errors(volume) == (["no-rescale"] if volume.modality == "CT" else [])
