"""Reading the contours of an RT structure set (PS3.3 A.19, C.8.8.6) onto the grid of a volume.

A voxel belongs to a structure when its centre lies within an odd number of the outlines on its slice (even-odd rule).
So a hole may be drawn as a contour within a contour, or as a keyhole in a single one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.labels.marking import SNAP_MM, Marked, Target, Unfit, assign, paint
from fedsite.dicom.labels.objects import named_images, unreadable

Points = NDArray[np.float64]
Plane = NDArray[np.bool_]

LEAST_POINTS = 3  # fewer enclose nothing
_CLOSED = "CLOSED_PLANAR"
_CLOSED_TO_COMBINE = "CLOSEDPLANAR_XOR"


@dataclass(frozen=True)
class _Outline:
    """A closed contour on slice `k`: its corners [n, 2] in voxel indices (i, j).

    `combines` says that where it overlaps others on its slice, the even-odd rule is meant (PS3.3 C.8.8.6.3).
    """

    corners: Points
    k: int
    combines: bool


def read_structure_set(file: BinaryIO, target: Target) -> Marked:
    """The structures that stand for labels of the task, on the target's grid.

    Raises Unfit where a rule ends the reading, and whatever pydicom raises on damaged data.
    """
    dataset = pydicom.dcmread(file)
    drawn = _contours(dataset)
    assigned, findings = assign(_structures(dataset, drawn), target.names)
    contours = [contour for number in assigned for contour in drawn.get(number, ())]
    findings += _frame_of_reference(dataset, assigned, contours, target)
    values = np.zeros(target.shape, np.uint8, order="F")
    faults: Counter[str] = Counter()
    contested = 0
    for number, value in assigned.items():
        by_slice: dict[int, list[_Outline]] = defaultdict(list)
        for contour in drawn.get(number, ()):
            outline = _outline(contour, target, faults)
            if outline is not None:
                by_slice[outline.k].append(outline)
        for k, outlines in sorted(by_slice.items()):
            contested += paint(values[:, :, k], _inside(outlines, target.shape[:2]), value)
    if contested:
        findings.append(finding("label-overlap", count=contested, what="Structures of different labels"))
    return Marked(
        values, (*findings, *(finding(rule, count=faults[rule], what="contour(s)") for rule in sorted(faults)))
    )


def fill(corners: Points, shape: tuple[int, int]) -> Plane:
    """The voxels [i, j] of a slice whose centres lie inside a polygon [n, 2] in voxel indices, by the even-odd rule.

    Of a centre that lies exactly on an outline, the lower side belongs to the polygon and the upper one does not: so
    polygons that share an edge share no voxel and leave none out. An edge that is passed there and back cancels.
    """
    following = np.roll(corners, -1, axis=0)
    lower, upper = np.minimum(corners, following), np.maximum(corners, following)
    # For each edge the lines (whole values of i) that it crosses, and where on j it does.
    first = np.clip(np.ceil(lower[:, 0]), 0, shape[0]).astype(np.intp)
    last = np.clip(np.ceil(upper[:, 0]), 0, shape[0]).astype(np.intp)
    counts = last - first
    edges = np.repeat(np.arange(len(corners)), counts)
    lines = first[edges] + np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
    start, end = corners[edges], following[edges]
    crossings = start[:, 1] + (lines - start[:, 0]) * (end[:, 1] - start[:, 1]) / (end[:, 0] - start[:, 0])
    # Each crossing toggles all voxels from there on.
    toggles = np.zeros((shape[0], shape[1] + 1), np.bool_)
    np.logical_xor.at(toggles, (lines, np.clip(np.ceil(crossings), 0, shape[1]).astype(np.intp)), True)
    inside: Plane = np.logical_xor.accumulate(toggles, axis=1)[:, :-1]
    return inside


def _inside(outlines: Sequence[_Outline], shape: tuple[int, int]) -> Plane:
    """What the outlines of one structure enclose on one slice. Raises Unfit where they cross each other.

    An outline that is there twice counts once.
    """
    once = {outline.corners.tobytes(): outline for outline in outlines}
    planes = [(outline, fill(outline.corners, shape)) for outline in once.values()]
    if len(planes) == 1:
        return planes[0][1]
    depth = np.sum([plane for _, plane in planes], axis=0)
    if depth.max() > 1:
        crossing = sum(_crossing(one, other) for one, other in combinations(planes, 2))
        if crossing:
            raise Unfit(finding("label-overlap", count=crossing, what="Contours of one structure"))
    inside: Plane = depth % 2 == 1
    return inside


def _crossing(one: tuple[_Outline, Plane], other: tuple[_Outline, Plane]) -> int:
    """How many voxels two outlines share of which neither lies within the other, where that has no meaning."""
    if one[0].combines and other[0].combines:
        return 0
    if (one[0].corners.max(axis=0) < other[0].corners.min(axis=0)).any():
        return 0
    if (other[0].corners.max(axis=0) < one[0].corners.min(axis=0)).any():
        return 0
    common = one[1] & other[1]
    nested = np.array_equal(common, one[1]) or np.array_equal(common, other[1])
    return 0 if nested else int(np.count_nonzero(common))


def _contours(dataset: Dataset) -> dict[int, list[Dataset]]:
    """The contours of each structure, by its number. Lone points (markers) are no outline of anything."""
    drawn: dict[int, list[Dataset]] = defaultdict(list)
    for structure in dataset.get("ROIContourSequence") or ():
        items = structure.get("ContourSequence") or ()
        drawn[int(structure.ReferencedROINumber)] += [item for item in items if item.ContourGeometricType != "POINT"]
    return {number: items for number, items in drawn.items() if items}


def _structures(dataset: Dataset, drawn: Iterable[int]) -> dict[int, list[str]]:
    """What each structure is called. Those without contours are left away, unless none has any."""
    structures = {
        int(item.ROINumber): [str(item.get("ROIName", ""))] for item in dataset.get("StructureSetROISequence") or ()
    }
    numbers = set(drawn)
    if not numbers <= structures.keys():
        raise unreadable()
    return {number: called for number, called in structures.items() if number in numbers or not numbers}


def _frame_of_reference(
    dataset: Dataset, assigned: Mapping[int, int], contours: Iterable[Dataset], target: Target
) -> list[Finding]:
    """Whether the structures lie in the volume's frame of reference.

    Some tools write one of their own. Where every contour names its image all the same, the image decides, and
    reading the contour holds it to that image's place. Raises Unfit where the frame is another one.
    """
    stated = {
        str(item.get("ReferencedFrameOfReferenceUID", ""))
        for item in dataset.get("StructureSetROISequence") or ()
        if int(item.ROINumber) in assigned
    }
    if not target.frame_of_reference or stated <= {target.frame_of_reference, ""}:
        return []
    if all(named_images(contour.get("ContourImageSequence")) for contour in contours):
        return [finding("label-frame-unlike")]
    raise Unfit(finding("label-other-frame"))


def _outline(contour: Dataset, target: Target, faults: Counter[str]) -> _Outline | None:
    """One contour as an outline; None where it encloses nothing or breaks a rule, which is counted in `faults`.

    Raises Unfit where it names other images.
    """
    kind = str(contour.ContourGeometricType)
    if kind not in (_CLOSED, _CLOSED_TO_COMBINE):
        faults["label-open-contours"] += 1
        return None
    points = np.array([float(number) for number in contour.get("ContourData") or ()])
    if points.size % 3 or not np.isfinite(points).all():
        raise unreadable()
    if points.size < 3 * LEAST_POINTS:
        return None
    indices = target.indices(points.reshape(-1, 3))
    k = int(np.rint(np.median(indices[:, 2])))
    off_plane = np.zeros_like(indices)
    off_plane[:, 2] = indices[:, 2] - k
    # In mm the half voxel at the rim, and what rounding adds to it.
    slack = SNAP_MM / np.linalg.norm(target.affine[:3, :2], axis=0)
    limits = np.array(target.shape[:2]) - 0.5 + slack
    if target.distance(off_plane) > SNAP_MM:
        faults["label-between-slices"] += 1
        return None
    if reason := target.mismatch(named_images(contour.get("ContourImageSequence")), k):
        raise Unfit(finding("label-wrong-reference", reason=reason))
    if not 0 <= k < target.shape[2] or (indices[:, :2] < -0.5 - slack).any() or (indices[:, :2] > limits).any():
        faults["label-outside-image"] += 1
        return None
    return _Outline(indices[:, :2], k, kind == _CLOSED_TO_COMBINE)
