"""Bringing the parts of a label object (segments, structures) onto the grid of a volume, as the labels of a task.

What parts are called is typed by people and may hold their names: it is compared here and goes no further. Parts
are told by their numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.labels.objects import NamedImage
from fedsite.dicom.model import Volume

SNAP_MM = 0.1  # how far rounding of coordinates may move a voxel
ROUNDING_MM = 0.001  # below this it is not worth a word

_RUNNING_NUMBER = re.compile(r"[\W_]*\d*[\W_]*$")


@dataclass(frozen=True)
class Target:
    """What a label object is brought onto: the slices of a volume, as they were acquired.

    Attributes:
        shape: columns, rows, slices.
        affine: 4x4, from indices to RAS coordinates in mm.
        places: [slices] where each slice lies along the third axis of `affine`.
        shifts: [slices, 2] where the first voxel of each slice lies along its first two. (Both differ from 0, 1, 2 ...
            and from zeros where tilted or uneven slices are brought onto a regular grid later.)
        frame_of_reference: its UID, "" where the images name none.
        slices: the images that the object may name: by SOPInstanceUID and frame number (from 1) the slice.
        names: the task's labels by value, without the background.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    places: NDArray[np.float64]
    shifts: NDArray[np.float64]
    frame_of_reference: str = field(repr=False)
    slices: Mapping[str, Mapping[int, int]] = field(repr=False)
    names: Mapping[int, str]

    def indices(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points [n, 3] in patient coordinates (LPS, mm) as (column, row, slice); whole numbers are voxel centres."""
        inverse = np.linalg.inv(self.affine)
        indices: NDArray[np.float64] = (points * [-1.0, -1.0, 1.0]) @ inverse[:3, :3].T + inverse[:3, 3]
        nearest = np.abs(indices[:, 2, None] - self.places).argmin(axis=1)
        indices[:, :2] -= self.shifts[nearest]
        indices[:, 2] += nearest - self.places[nearest]
        return indices

    def distance(self, steps: NDArray[np.float64]) -> float:
        """The length in mm of the longest of some steps [n, 3] in indices."""
        return float(np.linalg.norm(steps @ self.affine[:3, :3].T, axis=1).max())

    def mismatch(self, images: Sequence[NamedImage], k: int) -> str:
        """Why a plane on slice `k` cannot have been drawn on the images that it names; "" where it can."""
        known = [(self.slices[each.sop_instance], each.frames) for each in images if each.sop_instance in self.slices]
        if images and not known:
            return "a plane names an image that is not among them"
        places = {slices.get(frame) for slices, frames in known for frame in frames or slices}
        if places and 0 <= k < self.shape[2] and k not in places:
            return "a plane lies on another slice than the image that it names"
        return ""


def target(volumes: Sequence[Volume], names: Mapping[int, str]) -> Target:
    """The slices of the first of some volumes on one grid; what is brought onto them may name images of all."""
    first = volumes[0]
    pixels, count = first.frames[0].instance.pixels, len(first.frames)
    slices: dict[str, dict[int, int]] = {}
    for volume in volumes:
        for k, frame in enumerate(volume.frames):
            slices.setdefault(frame.instance.sop_instance, {})[frame.index + 1] = k
    return Target(
        shape=(pixels.columns, pixels.rows, count),
        affine=first.affine,
        places=first.regrid.places if first.regrid else np.arange(count, dtype=np.float64),
        shifts=first.regrid.shifts if first.regrid else np.zeros((count, 2)),
        frame_of_reference=first.frame_of_reference,
        slices=slices,
        names=names,
    )


@dataclass(frozen=True)
class Marked:
    """A label object on slices, uint8 [column, row, slice]; findings with an error mean that it does not fit."""

    values: NDArray[np.uint8]
    findings: tuple[Finding, ...]


class Unfit(Exception):
    """A label object broke a rule that makes further reading pointless."""

    def __init__(self, problem: Finding) -> None:
        super().__init__(problem.id)
        self.problem = problem


def assign(parts: Mapping[int, Sequence[str]], names: Mapping[int, str]) -> tuple[dict[int, int], list[Finding]]:
    """The label's value that each part stands for; `parts` gives by number what it is called, the surest first.

    A single part is the task's single label, whatever it is called. Else a part stands for the label whose name it
    bears; case, surrounding punctuation and a running number do not count ("Lesion", "lesion_2"), and several parts
    may stand for one label. What bears no label's name is left aside with a warning. Raises Unfit when all do.
    """
    if len(parts) == 1 and len(names) == 1:
        return dict(zip(parts, names, strict=True)), []
    by_name = {_plain(name): value for value, name in names.items()}
    assigned: dict[int, int] = {}
    for number, called in parts.items():
        values = [by_name[plain] for plain in map(_plain, called) if plain in by_name]
        if values:
            assigned[number] = values[0]
    others = sorted(parts.keys() - assigned.keys())
    told = ", ".join(map(str, others))
    if parts and not assigned:
        wanted = ", ".join(sorted(names.values()))
        raise Unfit(finding("label-parts-unnamed", count=len(others), numbers=told, names=wanted))
    return assigned, [finding("label-parts-unused", count=len(others), numbers=told)] if others else []


def paint(values: NDArray[np.uint8], plane: NDArray[np.bool_], value: int) -> int:
    """Marks a plane in `values` (a view of its shape) with a label; gives how many voxels bore another label."""
    contested = np.count_nonzero(plane & (values != 0) & (values != value))
    values[plane] = value
    return int(contested)


def _plain(name: str) -> str:
    return _RUNNING_NUMBER.sub("", name.strip()).casefold()
