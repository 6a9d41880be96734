"""Reading a DICOM segmentation (PS3.3 A.51; binary, fractional, label map) onto the grid of a volume.

Each frame is placed by its own position, never by its number: frames that were left out because nothing is marked in
them (sparse storage) are zeros, and their order means nothing.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.header.values import Header, flatten_groups, numbers
from fedsite.dicom.labels.marking import ROUNDING_MM, SNAP_MM, Marked, Target, Unfit, assign, paint
from fedsite.dicom.labels.objects import source_images, unreadable

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


class _Canvas:
    """What has been marked so far on the target's slices, and what was noticed on the way."""

    def __init__(self, target: Target) -> None:
        self.values = np.zeros(target.shape, np.uint8, order="F")
        self.partial = False
        self._target = target
        self._contested, self._outside, self._distance = 0, 0, 0.0

    def mark(self, plane: Plane, value: int, place: _Place, group: Dataset) -> None:
        """Marks the pixels [row, column] of a frame with a label. Raises Unfit where it names other images."""
        self._distance = max(self._distance, place.distance)
        if not plane.any():
            return
        if reason := self._target.mismatch(source_images(group), place.k):
            raise Unfit(finding("label-wrong-reference", reason=reason))
        if 0 <= place.k < self._target.shape[2]:
            self._contested += paint(self.values[:, :, place.k], place.turn(plane), value)
        else:
            self._outside += 1

    def findings(self) -> Iterator[Finding]:
        """What is wrong, and what is to be said."""
        if self._outside:
            yield finding("label-outside-image", count=self._outside, what="frame(s)")
        if self._contested:
            yield finding("label-overlap", count=self._contested, what="Segments of different labels")
        if self._distance > ROUNDING_MM:
            yield finding("label-grid-rounded", distance=self._distance)
        if self.partial:
            yield finding("label-fractional")


def read_segmentation(file: BinaryIO, target: Target) -> Marked:
    """The segments that stand for labels of the task, on the target's slices. A fraction counts from one half.

    Raises Unfit where a rule ends the reading, and whatever pydicom and highdicom raise on damaged data.
    """
    from highdicom.seg import Segmentation

    segmentation = Segmentation.from_dataset(pydicom.dcmread(file), copy=False)
    _check(segmentation, target)
    background = _background(segmentation)
    segments = _segments(segmentation, background)
    assigned, findings = assign(segments, target.names)
    canvas = _Canvas(target)
    for index, group in enumerate(_groups(segmentation)):
        numbers = assigned.keys() if segmentation.SegmentationType == "LABELMAP" else assigned.keys() & {_number(group)}
        if not numbers:
            continue
        place = _place(segmentation, group, target)
        stored = segmentation.get_stored_frame(index, as_index=True)
        if segmentation.SegmentationType == "LABELMAP":
            if not np.isin(stored, [*background, *segments]).all():
                raise unreadable()
            for number in sorted(numbers):
                canvas.mark(stored == number, assigned[number], place, group)
        else:
            (number,) = numbers
            whole = _whole(segmentation)
            canvas.partial |= bool(((stored > 0) & (stored < whole)).any())
            canvas.mark(stored >= whole / 2, assigned[number], place, group)
    return Marked(canvas.values, (*findings, *canvas.findings()))


def _check(segmentation: "Segmentation", target: Target) -> None:
    """What must hold of a segmentation as a whole, before a frame is looked at."""
    if segmentation.SegmentationType not in _TYPES:
        raise unreadable()
    own = str(segmentation.get("FrameOfReferenceUID", ""))
    if own and target.frame_of_reference and own != target.frame_of_reference:
        raise Unfit(finding("label-other-frame"))


def _background(segmentation: "Segmentation") -> set[int]:
    """The stored values of a label map that mean that nothing is marked."""
    if segmentation.SegmentationType != "LABELMAP":
        return set()
    padding = segmentation.get("PixelPaddingValue")
    return {0} if padding is None else {0, int(padding)}


def _segments(segmentation: "Segmentation", background: Collection[int]) -> dict[int, list[str]]:
    """What each segment is called: by whom drew it, then by the code of what it shows."""
    called: dict[int, list[str]] = {}
    for segment in segmentation.SegmentSequence:
        codes = segment.get("SegmentedPropertyTypeCodeSequence") or ()
        names = [segment.get("SegmentLabel", ""), *(code.get("CodeMeaning", "") for code in codes)]
        called[int(segment.SegmentNumber)] = [str(name) for name in names]
    return {number: names for number, names in called.items() if number not in background}


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


def _number(group: Dataset) -> int:
    """The segment that a frame belongs to."""
    return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _whole(segmentation: "Segmentation") -> int:
    """The stored value of a voxel that is marked wholly."""
    whole = 1 if segmentation.SegmentationType == "BINARY" else int(segmentation.MaximumFractionalValue)
    if whole < 1:
        raise unreadable()
    return whole


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
    size, wanted = (rows, columns) if transposed else (columns, rows), target.shape[:2]
    if size != wanted:
        reason = f"{size[0]} x {size[1]} pixels a frame instead of {wanted[0]} x {wanted[1]}"
        raise Unfit(finding("label-other-grid", reason=reason))
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
