"""Reading a DICOM segmentation (PS3.3 A.51; binary, fractional, label map) onto the grid of a volume.

Each frame is placed by its own position, never by its number: frames that were left out because nothing is marked in
them (sparse storage) are zeros, and their order means nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.label_objects import source_images, unreadable
from fedsite.dicom.marking import ROUNDING_MM, SNAP_MM, Marked, Target, Unfit, assign, paint
from fedsite.dicom.values import Header, flatten_groups, numbers

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

Plane = NDArray[np.bool_]

_TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")


@dataclass(frozen=True)
class _Place:
    """Where a frame lies on the target's grid: its slice, and how its pixels [row, column] become voxels [i, j].

    `distance` is how far (mm) the farthest of its corners lies from the voxel that it is taken for.
    """

    k: int
    transposed: bool
    flipped: tuple[bool, bool]
    distance: float

    def turn(self, plane: Plane) -> Plane:
        """Pixels [row, column] as voxels [i, j]."""
        turned = plane if self.transposed else plane.T
        return turned[:: -1 if self.flipped[0] else 1, :: -1 if self.flipped[1] else 1]


@dataclass(frozen=True)
class _Marks:
    """What one frame marks of one label: pixels [row, column], and whether some of them are marked in part."""

    value: int
    plane: Plane
    partial: bool = False


def read_segmentation(file: BinaryIO, target: Target) -> Marked:
    """The segments that stand for labels of the task, on the target's grid. A fraction counts from one half.

    Raises Unfit where a rule ends the reading, and whatever pydicom and highdicom raise on damaged data.
    """
    from highdicom.seg import Segmentation

    segmentation = Segmentation.from_dataset(pydicom.dcmread(file), copy=False)
    own = str(segmentation.get("FrameOfReferenceUID", ""))
    if own and target.frame_of_reference and own != target.frame_of_reference:
        raise Unfit(finding("label-other-frame"))
    if segmentation.SegmentationType not in _TYPES:
        raise unreadable()
    assigned, findings = assign(_segments(segmentation), target.names)
    values = np.zeros(target.shape, np.uint8, order="F")
    contested, outside, distance, partial = 0, 0, 0.0, False
    for index, group in enumerate(_groups(segmentation)):
        for marks in _marks(segmentation, index, group, assigned):
            place = _place(segmentation, group, target)
            distance = max(distance, place.distance)
            if not marks.plane.any():
                continue
            if reason := target.mismatch(source_images(group), place.k):
                raise Unfit(finding("label-wrong-reference", reason=reason))
            if not 0 <= place.k < target.shape[2]:
                outside += 1
                continue
            contested += paint(values[:, :, place.k], place.turn(marks.plane), marks.value)
            partial |= marks.partial
    return Marked(values, (*findings, *_problems(contested, outside), *_remarks(distance, partial)))


def _problems(contested: int, outside: int) -> Iterator[Finding]:
    if outside:
        yield finding("label-outside-image", count=outside, what="frame(s)")
    if contested:
        yield finding("label-overlap", count=contested, what="Segments of different labels")


def _remarks(distance: float, partial: bool) -> Iterator[Finding]:
    if distance > ROUNDING_MM:
        yield finding("label-grid-rounded", distance=distance)
    if partial:
        yield finding("label-fractional")


def _background(segmentation: "Segmentation") -> set[int]:
    """The stored values of a label map that mean nothing is marked."""
    padding = segmentation.get("PixelPaddingValue")
    return {0} if padding is None else {0, int(padding)}


def _segments(segmentation: "Segmentation") -> dict[int, list[str]]:
    """What each segment is called: by whom drew it, then by the code of what it shows."""
    background = _background(segmentation) if segmentation.SegmentationType == "LABELMAP" else set()
    called: dict[int, list[str]] = {}
    for segment in segmentation.SegmentSequence:
        number = int(segment.SegmentNumber)
        if number not in background:
            codes = segment.get("SegmentedPropertyTypeCodeSequence") or ()
            called[number] = [
                str(segment.get("SegmentLabel", "")),
                *(str(code.get("CodeMeaning", "")) for code in codes),
            ]
    return called


def _groups(segmentation: "Segmentation") -> Iterator[Dataset]:
    """The functional groups of each frame, those that all frames share included."""
    shared, per_frame = segmentation.SharedFunctionalGroupsSequence[0], segmentation.PerFrameFunctionalGroupsSequence
    if len(per_frame) != segmentation.number_of_frames:
        raise unreadable()
    for own in per_frame:
        group = Dataset()
        group.update(shared)
        group.update(own)
        yield group


def _marks(segmentation: "Segmentation", index: int, group: Dataset, assigned: Mapping[int, int]) -> Iterator[_Marks]:
    """What one frame marks: in a label map of every label, else of the label of its segment."""
    if segmentation.SegmentationType == "LABELMAP":
        stored = segmentation.get_stored_frame(index, as_index=True)
        known = _background(segmentation) | _segments(segmentation).keys()
        if not np.isin(stored, list(known)).all():
            raise unreadable()
        yield from (_Marks(value, stored == number) for number, value in assigned.items())
        return
    number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    if number not in assigned:
        return
    stored = segmentation.get_stored_frame(index, as_index=True)
    if segmentation.SegmentationType != "FRACTIONAL":
        yield _Marks(assigned[number], stored != 0)
        return
    whole = int(segmentation.MaximumFractionalValue)
    fractions = stored / whole
    yield _Marks(assigned[number], fractions >= 0.5, bool(((fractions > 0) & (fractions < 1)).any()))


def _place(segmentation: "Segmentation", group: Dataset, target: Target) -> _Place:
    """Where a frame lies. Raises Unfit unless its pixels are the voxels of a slice, or of one beyond the first or last.

    Pixels may run along the slice's axes in any order and direction.
    """
    rows, columns = int(segmentation.Rows), int(segmentation.Columns)
    corners = _corners(flatten_groups(group), rows, columns)
    if corners is None:
        raise unreadable()
    exact = target.indices(corners)
    along_row, along_column = exact[1] - exact[0], exact[2] - exact[0]
    transposed = bool(abs(along_row[1]) > abs(along_row[0]))
    size = (rows, columns) if transposed else (columns, rows)
    if size != target.shape[:2]:
        wanted = f"{target.shape[0]} x {target.shape[1]}"
        raise Unfit(finding("label-other-grid", reason=f"{size[0]} x {size[1]} pixels a frame instead of {wanted}"))
    flipped = bool((along_row + along_column)[0] < 0), bool((along_row + along_column)[1] < 0)
    k = int(np.rint(exact[0, 2]))
    expected = np.array([[(side - 1) * flip for side, flip in zip(size, flipped, strict=True)] + [k]] * 3, np.float64)
    expected[1, int(transposed)] = (columns - 1) * (not flipped[transposed])
    expected[2, 1 - int(transposed)] = (rows - 1) * (not flipped[1 - transposed])
    distance = target.distance(exact - expected)
    if distance > SNAP_MM:
        raise Unfit(finding("label-other-grid", reason=f"its farthest corner lies {distance:.2f} mm off"))
    return _Place(k, transposed, flipped, distance)


def _corners(header: Header, rows: int, columns: int) -> NDArray[np.float64] | None:
    """Pixel centres (LPS, mm) at the beginning of a frame, the end of its first row, and that of its first column."""
    position = numbers(header, "ImagePositionPatient", 3)
    orientation = numbers(header, "ImageOrientationPatient", 6)
    spacing = numbers(header, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        return None
    first = np.array(position)
    along_row = np.array(orientation[:3]) * spacing[1] * (columns - 1)
    along_column = np.array(orientation[3:]) * spacing[0] * (rows - 1)
    corners = np.stack([first, first + along_row, first + along_column])
    return corners if np.isfinite(corners).all() else None
