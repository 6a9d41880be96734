"""Slices that are tilted or unevenly placed, brought onto a regular, upright grid: once, from where they truly lie.

Linear interpolation, first within each slice (a gantry tilt shifts every slice as a whole), then between the two
slices that lie above and below. Nothing is resampled unless the operator asks for it.
"""

import difflib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsite.dicom.geometry import LPS_TO_RAS, Array, Planes, affine
from fedsite.errors import UsageError

# What can be asked for: the irregularities that resampling mends.
CHOICES = ("tilt", "uneven")

MAX_TILT_DEGREES = 45.0  # no gantry leans further
MOST_GROWTH = 4.0  # times the acquired voxels; a file must not make a site allocate what it claims
MAX_STEP = 1.9  # median steps; what lies further apart than this lacks a slice

_NEGLIGIBLE = 1e-4  # of a voxel
_HALF = 0.5 - _NEGLIGIBLE

Voxels = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Regrid:
    """From n slices as they were acquired to a regular grid.

    Attributes:
        shape: columns, rows and slices of the grid.
        affine: 4x4, its indices to RAS coordinates in mm.
        places: [n] where each acquired slice lies along the grid's third axis, in slices.
        shifts: [n, 2] where the first voxel of each acquired slice lies, in columns and rows of the grid.
        acquired_shape: columns, rows and slices as they were acquired.
        acquired_affine: their (sheared) affine, or None where their steps are uneven, which no affine describes.
    """

    shape: tuple[int, int, int]
    affine: Array
    places: Array
    shifts: Array
    acquired_shape: tuple[int, int, int]
    acquired_affine: Array | None


def chosen(text: str) -> frozenset[str]:
    """What a list of words such as "tilt,uneven" asks for. Raises UsageError for another word."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in CHOICES:
            nearest = difflib.get_close_matches(word, CHOICES, n=1)
            mend = f"Did you mean {nearest[0]}?" if nearest else f"It takes {' and '.join(CHOICES)}."
            raise UsageError(f"--resample does not know {word!r}.", mend)
    return frozenset(words)


def plan(planes: Planes, tilted: bool, uneven: bool) -> Regrid:
    """The regular grid for sorted planes at different positions: even steps (their median) over the whole stack.

    For a tilted stack its third axis is the planes' normal, and the grid is wide enough for every slice; another keeps
    the small lean that it has. In-plane spacing and directions stay as they are.
    """
    rows, columns = (int(size) for size in planes.sizes[0])
    between_rows, between_columns = planes.spacings[0]
    along_row, along_column = (_unit(planes.orientations[0, part]) for part in (slice(0, 3), slice(3, 6)))
    offsets = planes.positions - planes.positions[0]
    heights = offsets @ planes.normal
    step = float(np.median(np.diff(heights)))
    shifts = np.zeros((len(heights), 2))
    third = offsets[-1] / heights[-1] * step
    if tilted:
        shifts = np.stack([offsets @ along_row / between_columns, offsets @ along_column / between_rows], axis=1)
        third = planes.normal * step
    first = np.floor(shifts.min(axis=0) + _NEGLIGIBLE)
    wider = (np.ceil(shifts.max(axis=0) - _NEGLIGIBLE) - first).astype(int)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = along_row * between_columns, along_column * between_rows, third
    matrix[:3, 3] = planes.positions[0] + matrix[:3, :2] @ first
    slices = 1 + int(heights[-1] / step + _NEGLIGIBLE)
    shape = (columns + int(wider[0]), rows + int(wider[1]), slices)
    return Regrid(
        shape=shape,
        affine=LPS_TO_RAS @ matrix,
        places=heights / step,
        shifts=shifts - first,
        acquired_shape=(columns, rows, len(heights)),
        acquired_affine=None if uneven else affine(planes),
    )


def apply(regrid: Regrid, stack: Voxels) -> Voxels:
    """The voxels of acquired slices [slice, row, column] on the regular grid, in the same order of axes.

    Beyond the border of a slice its outermost voxels go on: there is air.
    """
    columns, rows, slices = regrid.shape
    result = np.empty((slices, rows, columns), np.float32)
    last = len(regrid.places) - 2
    for index in range(slices):
        below = int(np.clip(np.searchsorted(regrid.places, index, "right") - 1, 0, last))
        share = (index - regrid.places[below]) / (regrid.places[below + 1] - regrid.places[below])
        share = float(np.clip(share, 0, 1))
        if share < _NEGLIGIBLE or share > 1 - _NEGLIGIBLE:
            result[index] = _moved(regrid, stack, below + round(share))
        else:
            lower, upper = _moved(regrid, stack, below), _moved(regrid, stack, below + 1)
            result[index] = lower + np.float32(share) * (upper - lower)
    return result


def apply_labels(regrid: Regrid, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask on the acquired slices [column, row, slice] on the regular grid.

    A voxel gets the label that at least half of it has.
    """
    result = np.zeros(regrid.shape, np.uint8)
    for value in np.unique(values[values > 0]):
        marks = np.ascontiguousarray((values == value).transpose(2, 1, 0), np.float32)
        result[apply(regrid, marks).transpose(2, 1, 0) >= _HALF] = value
    return result


def _moved(regrid: Regrid, stack: Voxels, index: int) -> Voxels:
    """One slice, in place on the grid: shifted by a fraction of voxels along both axes."""
    columns, rows, _ = regrid.shape
    along_columns, along_rows = regrid.shifts[index]
    return _shifted(_shifted(stack[index], along_rows, rows).T, along_columns, columns).T


def _shifted(plane: Voxels, shift: float, length: int) -> Voxels:
    """A plane shifted along its first axis, and `length` long there."""
    places = np.arange(length) - shift
    before = np.floor(places + _NEGLIGIBLE).astype(int)
    share = float(places[0] - before[0])
    last = len(plane) - 1
    moved: Voxels = plane[np.clip(before, 0, last)]
    if share <= _NEGLIGIBLE:
        return moved
    after: Voxels = plane[np.clip(before + 1, 0, last)]
    moved += np.float32(share) * (after - moved)
    return moved


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)
