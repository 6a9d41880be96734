"""What must hold of whatever the gate answers, computed without the gate's code.

The planes of an accepted volume are read again from its own (mutated) files, with pydicom alone; whether they make
an even, straight, upright stack that the affine describes is computed here once more. Tolerances are those of the
rules, with a hair's breadth more for the order of floating-point sums.
"""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from unittest import mock

import numpy as np
import pydicom
from pydicom import filereader
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.hooks import hooks
from pydicom.multival import MultiValue

from fedsite.dicom.labels.marking import Marked
from fedsite.dicom.model import Frame, Inventory, Volume

STEP, STEP_MM, TILT_DEGREES = 0.02, 0.01, 0.5
DRIFT = 0.1
DIRECTION, PIXEL = 1e-3, 1e-3
VOXEL_MM = (0.01, 50.0)
CORNER_MM = 0.02
SLACK = 1e-6
MOST_MM = 1e5
SPECIFIC_CHARACTER_SET = 0x00080005

# Where enhanced objects keep what classic ones keep at the top (PS3.3 C.7.6.16.2).
_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
_NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.1.99": "<",
    "1.2.840.10008.1.2.2": ">",
}


@dataclass(frozen=True)
class Stack:
    """The planes of a volume as its files state them: [slice, ...] arrays in LPS, mm, in the volume's order."""

    positions: np.ndarray
    orientations: np.ndarray
    spacings: np.ndarray
    sizes: np.ndarray


def faults(inventory: Inventory, paths: Sequence[Path]) -> list[str]:
    """What is wrong with an inventory of these files as such: anything unjudged, or a verdict without a reason."""
    found = []
    for volume in inventory.volumes:
        errors = [each for each in volume.findings if each.severity == "error"]
        if (volume.verdict == "refused") != bool(errors):
            found.append(f"verdict {volume.verdict} with {len(errors)} errors")
        if any(each.where != volume.id for each in volume.findings):
            found.append("a finding does not name its volume")
    if len({volume.id for volume in inventory.volumes}) < len(inventory.volumes):
        found.append("two volumes have one id")
    instances = {frame.instance for volume in inventory.volumes for frame in volume.frames}
    members = {(instance.path, instance.member) for instance in instances}
    placed = {instance.path for instance in instances}
    unplaced = sum(str(path) not in placed and not _is_empty_archive(path) for path in paths)
    dropped = [each for volume in inventory.volumes for each in volume.findings if each.id == "identical-duplicates"]
    named = sum(int(number) for each in (*inventory.findings, *dropped) for number in re.findall(r"^\d+", each.message))
    if unplaced > named:
        found.append(f"{unplaced} files in no volume, {named} in findings")
    if len(members) + named < inventory.files:
        found.append(f"{inventory.files} files looked at, {len(members)} in volumes, {named} in findings")
    return found


def volume_faults(volume: Volume) -> list[str]:
    """What is wrong with the geometry of an accepted volume, by its own files."""
    places = Counter((frame.instance.path, frame.instance.member, frame.index) for frame in volume.frames)
    if not np.isfinite(volume.affine).all() or volume.affine.shape != (4, 4):
        return ["affine not finite"]
    if max(places.values(), default=0) != 1:
        return ["a slice is used twice"]
    if volume.regrid:
        return list(_regular_faults(volume))
    if len(volume.frames) != volume.shape[2]:
        return ["slices are not as many as the shape says"]
    if len(volume.frames) < 3:
        return ["fewer than three slices"]
    try:
        stack = _stack(volume.frames)
    except Exception as error:  # noqa: BLE001 - the gate found a geometry where pydicom finds none
        return [f"geometry cannot be read: {type(error).__name__}"]
    return [*_plane_faults(stack, volume), *_stack_faults(stack), *_affine_faults(stack, volume)]


def voxel_faults(volume: Volume, voxels: np.ndarray) -> list[str]:
    """What is wrong with the voxels that were read; uncompressed ones are computed again from the file."""
    if voxels.shape != volume.shape:
        return [f"voxels {voxels.shape} for a shape {volume.shape}"]
    if voxels.dtype != np.float32 or not np.isfinite(voxels).all():
        return ["voxels not finite"]
    found: list[str] = []
    for slot, frame in enumerate(() if volume.regrid else volume.frames):
        try:
            expected = _expected(frame)
        except Exception as error:  # noqa: BLE001 - the gate found values where there are none that pydicom can tell
            found.append(f"values cannot be computed: {type(error).__name__}")
            continue
        if expected is None:
            continue
        if expected.shape != voxels.shape[1::-1]:
            found.append("pixel data of another size")
        elif np.abs(voxels[:, :, slot].T - expected).max() > 1e-3 * max(1.0, float(np.abs(expected).max())):
            found.append("voxels unlike the file's")
    return sorted(set(found))


def label_faults(volume: Volume, marked: Marked) -> list[str]:
    """What is wrong with a label on the slices of a volume, whether it was found fit or not."""
    columns, rows, _ = volume.shape
    found = []
    if volume.regrid is None and marked.values.shape != (columns, rows, len(volume.frames)):
        found.append(f"a label {marked.values.shape} for a volume {volume.shape}")
    if marked.values.dtype != np.uint8 or marked.values.max(initial=0) > 1:
        found.append("a label with values that the task does not have")
    return found


def forget() -> None:
    """Lets go of the files of a case."""
    _dataset.cache_clear()
    _whole_file.cache_clear()


def _regular_faults(volume: Volume) -> Iterator[str]:
    """What is wrong with a resampled grid: it must be upright, of plausible voxels, and reach as far as its slices."""
    axes = volume.affine[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    if sizes.min() < VOXEL_MM[0] or sizes.max() > VOXEL_MM[1]:
        yield f"resampled voxels of {sizes.tolist()} mm"
    elif np.abs((axes / sizes).T @ (axes / sizes) - np.eye(3)).max() > 1e-2:
        yield "a resampled grid that is not upright"
    else:
        positions = _stack(volume.frames).positions * (-1.0, -1.0, 1.0)
        indices = np.linalg.solve(axes, (positions - volume.affine[:3, 3]).T).T
        outside = np.maximum(-indices, indices - (np.array(volume.shape) - 1)).max()
        if outside > 1.0:
            yield f"slices begin {outside:.1f} voxels outside the resampled grid"


def _is_empty_archive(path: Path) -> bool:
    return path.stat().st_size == 22 and path.read_bytes()[:4] == b"PK\5\6"


def _plane_faults(stack: Stack, volume: Volume) -> Iterator[str]:
    sizes = np.unique(stack.sizes, axis=0)
    if len(sizes) > 1 or tuple(sizes[0]) != volume.shape[1::-1]:
        yield f"sizes {sizes.tolist()} for a shape {volume.shape}"
    if np.abs(stack.orientations - stack.orientations[0]).max() > DIRECTION:
        yield "orientations differ"
    if np.abs(stack.spacings / stack.spacings[0] - 1).max() > PIXEL:
        yield "spacings differ"
    if stack.spacings.min() < VOXEL_MM[0] or stack.spacings.max() > VOXEL_MM[1]:
        yield f"pixels of {stack.spacings[0].tolist()} mm"
    if np.abs(stack.positions).max() > MOST_MM:
        yield "positions outside any scanner"
    rows, columns = stack.orientations[:, :3], stack.orientations[:, 3:]
    lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(columns, axis=1)
    if np.abs(np.stack(lengths) - 1).max() > 3e-3 or np.abs((rows * columns).sum(axis=1)).max() > 3e-3:
        yield "directions are not orthonormal"


def _stack_faults(stack: Stack) -> Iterator[str]:
    normal = np.cross(stack.orientations[0, :3], stack.orientations[0, 3:])
    normal /= np.linalg.norm(normal)
    places = stack.positions @ normal
    steps = np.diff(places)
    step = float(np.median(steps))
    if not (VOXEL_MM[0] <= step <= VOXEL_MM[1]):
        yield f"a step of {step} mm"
        return
    if np.abs(steps - step).max() > STEP * step + STEP_MM + SLACK:
        yield f"steps from {steps.min():.4f} to {steps.max():.4f} mm"
    sideways = stack.positions - np.outer(places, normal)
    height = places[-1] - places[0]
    degrees = np.degrees(np.arctan2(np.linalg.norm(sideways[-1] - sideways[0]), height))
    if degrees > TILT_DEGREES + SLACK:
        yield f"a tilt of {degrees:.3f} degrees"
    line = sideways[0] + np.outer((places - places[0]) / height, sideways[-1] - sideways[0])
    if np.linalg.norm(sideways - line, axis=1).max() > STEP * step + STEP_MM + SLACK:
        yield "slices off the line"


def _affine_faults(stack: Stack, volume: Volume) -> Iterator[str]:
    to_ras = np.array([-1.0, -1.0, 1.0])
    affine = volume.affine
    step = float(np.linalg.norm(affine[:3, 2]))
    if abs(np.linalg.det(affine[:3, :3])) < 0.99 * np.prod(stack.spacings[0]) * step:
        yield "the affine is degenerate"
    index = np.arange(len(stack.positions))
    stated = affine[:3, 3] + np.outer(index, affine[:3, 2])
    if np.linalg.norm(stated - stack.positions * to_ras, axis=1).max() > (DRIFT + STEP) * step + 2 * STEP_MM + SLACK:
        yield "the affine puts slices elsewhere"
    # Directions may be a little off unit length; the affine has them normalised, whichever way.
    extent = np.array([volume.shape[0] - 1, volume.shape[1] - 1]) * stack.spacings[0, ::-1]
    for axis, (direction, length) in enumerate(zip(stack.orientations[0].reshape(2, 3), extent, strict=True)):
        corner = direction / np.linalg.norm(direction) * to_ras * length
        skew = abs(stack.orientations[0, :3] @ stack.orientations[0, 3:])
        if np.linalg.norm(affine[:3, axis] * (volume.shape[axis] - 1) - corner) > CORNER_MM + 2 * skew * length:
            yield "the affine puts corners elsewhere"


def _stack(frames: Sequence[Frame]) -> Stack:
    planes = [(_of(frame), frame.index) for frame in frames]

    def vectors(keyword: str, count: int) -> np.ndarray:
        array = np.array([[float(part) for part in _value(*plane, keyword)] for plane in planes], np.float64)
        if array.shape != (len(planes), count) or not np.isfinite(array).all():
            raise ValueError(keyword)
        return array

    return Stack(
        vectors("ImagePositionPatient", 3),
        vectors("ImageOrientationPatient", 6),
        vectors("PixelSpacing", 2),
        np.array([(_whole(dataset, "Rows"), _whole(dataset, "Columns")) for dataset, _ in planes]),
    )


def _value(dataset: Dataset, index: int, keyword: str) -> object:
    """An attribute of one frame: its own functional group, the shared one, the object itself."""
    macro = _MACROS[keyword]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*per_frame[index : index + 1], *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]):
        for item in (group.get(macro) or [])[:1]:
            if item.get(keyword) not in (None, ""):
                return item[keyword].value
    return dataset.get(keyword)


def _expected(frame: Frame) -> np.ndarray | None:
    """The values [row, column] of an uncompressed frame, computed from its file; None where it is not that simple."""
    dataset = _whole_file(frame.instance.path, frame.instance.member)
    order = _NATIVE.get(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    if order is None or "PixelData" not in dataset or _is_scaled_otherwise(dataset, frame.index):
        return None
    rows, columns, bits = (_whole(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated"))
    if order == ">" and bits == 8:
        return None
    stored = _whole(dataset, "BitsStored", bits)
    high = _whole(dataset, "HighBit", stored - 1)
    offset = frame.index * rows * columns * bits // 8
    raw = np.frombuffer(dataset.PixelData, f"{order}u{bits // 8}", rows * columns, offset)
    values = (raw.astype(np.int64) >> (high + 1 - stored)) & ((1 << stored) - 1)
    sign = _whole(dataset, "PixelRepresentation")
    if sign not in (0, 1):
        raise ValueError("neither signed nor unsigned")
    if sign:
        values = np.where(values >> (stored - 1), values - (1 << stored), values)
    slope, intercept = (_value(dataset, frame.index, name) for name in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = (
        _number(slope, 1.0),
        _number(intercept, 0.0),
    )
    return (values * slope + intercept).reshape(rows, columns)


def _is_scaled_otherwise(dataset: Dataset, index: int) -> bool:
    """Whether more than slope and intercept may apply: a table, real-world values, what Philips keeps privately."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    tags = {tag for item in (dataset, *shared[:1], *per_frame[index : index + 1]) for tag in item.keys()}  # noqa: SIM118
    return any(tag in (0x00283000, 0x00409096) or tag >> 16 == 0x2005 for tag in map(int, tags))


def _whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """A whole number, the first of several."""
    value = dataset.get(keyword)
    if value in (None, "") and default is not None:
        return default
    return int(value if isinstance(value, int | float | str) else value[0])


def _number(value: object, absent: float) -> float:
    """A number, the first of several."""
    value = value[0] if isinstance(value, MultiValue) and len(value) else value
    return absent if value in (None, "") else float(value)


def _of(frame: Frame) -> Dataset:
    return _dataset(frame.instance.path, frame.instance.member)


@lru_cache(maxsize=256)
def _dataset(path: str, member: str) -> Dataset:
    """The header up to the pixel data, and nothing of what stands behind them."""
    return _read(path, member, stop_before_pixels=True)


@lru_cache(maxsize=256)
def _whole_file(path: str, member: str) -> Dataset:
    dataset = _read(path, member, stop_before_pixels=True)
    whole = _read(path, member, stop_before_pixels=False)
    if "PixelData" in whole:
        dataset[0x7FE00010] = whole[0x7FE00010]
    return dataset


def _read(path: str, member: str, stop_before_pixels: bool) -> pydicom.FileDataset:
    content = zipfile.ZipFile(path).read(member) if member else Path(path).read_bytes()
    with _whatever_character_set():
        return pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=stop_before_pixels)


@contextmanager
def _whatever_character_set() -> Iterator[None]:
    """A character set that is none keeps pydicom from everything else, which has nothing to do with text."""
    convert = hooks.raw_element_value

    def convert_others(raw: RawDataElement, data: dict[str, object], **options: object) -> None:
        if raw.tag == SPECIFIC_CHARACTER_SET:
            data |= {"VR": "CS", "value": ""}
        else:
            convert(raw, data, **options)

    hooks.register_callback("raw_element_value", convert_others)
    try:
        with mock.patch.object(filereader, "convert_encodings", return_value=[default_encoding]):
            yield
    finally:
        hooks.register_callback("raw_element_value", convert)
