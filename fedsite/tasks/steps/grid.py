"""RAS axes and a given spacing: what MONAI's Orientationd and Spacingd do, one axis at a time.

MONAI samples the image at a dense grid of coordinates, in float64. After Orientationd the wanted grid lies along the
volume's own axes, oblique or not; its coordinates are then those of three rows, one for each axis, and trilinear
interpolation is linear interpolation three times. That is much less to compute, and gives the same but for rounding in
float32. Only where an affine shears is it not so (Spacing takes the shear out): there MONAI does it itself.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

Mode = Literal["bilinear", "nearest"]
Values = NDArray[Any]
Indices = NDArray[np.intp]

AXES = (0, 1, 2)
# How far (voxels) a row of samples may wander off the volume's own axis and still count as lying on it.
STRAIGHT = 1e-3
# Nearer than this to the middle between two voxels, rounding decides which of them is the nearest.
MIDWAY = 1e-6
# Within this MONAI takes two affines for the same (monai.transforms.spatial.functional).
MONAI_TOLERANCE = 1e-3
MANY = 64


@dataclass(frozen=True)
class RasSpacingd:
    """In place of Orientationd(keys, "RAS") and Spacingd(keys, pixdim, mode): the same voxels and affine (RAS, mm).

    Takes channel-first MetaTensors [C, i, j, k] and gives such [C, X, Y, Z]; their type stays, and MONAI's list of
    applied operations (for inverting) is not kept. Voxels beyond the volume are those of its border.
    """

    keys: tuple[str, ...]
    pixdim: tuple[float, float, float]
    mode: tuple[Mode, ...]

    def __call__(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """The case with the named images on the new grid."""
        done = {key: _resampled(case[key], self.pixdim, mode) for key, mode in zip(self.keys, self.mode, strict=True)}
        return {**case, **done}


@dataclass(frozen=True)
class Grid:
    """Where the samples lie in a volume.

    `turn` brings the volume's axes to RAS (nibabel's orientation: for each axis its new place and direction); `shape`
    is that of the turned volume, `to_source` (4x4) leads from indices of the result, of size `size`, to those of the
    turned volume; `affine` is the result's. `wander` is how far, in voxels, a sample may lie off the row of its axis.
    """

    turn: NDArray[np.float64]
    shape: tuple[int, ...]
    size: tuple[int, ...]
    to_source: NDArray[np.float64]
    affine: NDArray[np.float64]
    wander: float

    def coordinates(self, axis: int) -> NDArray[np.float64]:
        """Of the samples along one axis of the result: indices of the turned volume, held to its border."""
        middle = (np.array(self.size) - 1) / 2
        middle[axis] = 0
        start = self.to_source[axis, :3] @ middle + self.to_source[axis, 3]
        along: NDArray[np.float64] = start + self.to_source[axis, axis] * np.arange(self.size[axis])
        return along.clip(0, self.shape[axis] - 1)

    def source(self, axis: int) -> int:
        """The volume's own axis that becomes this one."""
        return int(np.flatnonzero(self.turn[:, 0] == axis)[0])

    def is_flipped(self, axis: int) -> bool:
        """Whether the volume's own axis runs the other way."""
        return bool(self.turn[self.source(axis), 1] < 0)


def grid_for(shape: tuple[int, ...], affine: NDArray[np.float64], pixdim: tuple[float, float, float]) -> Grid:
    """The grid onto which MONAI's Orientation (to RAS) and Spacing would bring a volume: they are asked, not imitated.

    `shape` and `affine` are the volume's own. Raises ValueError, as MONAI does, for an affine that holds no volume.
    """
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms import Spacing
    from monai.utils.enums import LazyAttr

    turn = io_orientation(affine)
    if np.isnan(turn).any():
        raise ValueError("the affine holds no volume")
    turned_shape = tuple(int(shape[int(np.flatnonzero(turn[:, 0] == axis)[0])]) for axis in AXES)
    turned_affine = affine @ inv_ornt_aff(turn, shape)
    # Lazily, Spacing only notes what it would do; the volume it is shown has one voxel in memory.
    shown = torch.empty(1).expand(1, *turned_shape)
    noted = Spacing(pixdim, lazy=True)(MetaTensor(shown, affine=torch.from_numpy(turned_affine)))
    operation = noted.pending_operations[-1]
    size = tuple(int(side) for side in operation[LazyAttr.SHAPE])
    to_source = np.asarray(operation[LazyAttr.AFFINE], np.float64)
    if size == turned_shape and np.allclose(to_source, np.eye(4), atol=MONAI_TOLERANCE):
        return Grid(turn, turned_shape, size, np.eye(4), turned_affine, 0.0)
    aslant = np.abs(to_source[:3, :3] - np.diag(np.diag(to_source)[:3]))
    wander = float((aslant @ (np.array(size) - 1)).max() / 2)
    return Grid(turn, turned_shape, size, to_source, np.asarray(noted.peek_pending_affine()), wander)


def linear(values: Values, grid: Grid) -> Values:
    """The values [C, i, j, k] (float) at the grid's points, [C, X, Y, Z], trilinear. May share memory with them."""
    rows = {axis: _between(grid, axis) for axis in AXES}
    return _axis_by_axis(values, grid, lambda stored, axis, place: _interpolate(stored, place, *rows[axis]))


def nearest(values: Values, grid: Grid) -> Values:
    """The values [C, i, j, k] of the voxels nearest to the grid's points, [C, X, Y, Z]. May share memory with them.

    Where a point lies midway between voxels of different values, MONAI's choice hangs on the last bit of its
    arithmetic; there that arithmetic is repeated.
    """
    rows = {axis: _around(grid, axis) for axis in AXES}
    result = _least_or_most(np.minimum, values, grid, rows)
    if all(below is above for below, above in rows.values()):
        return result
    doubtful = np.argwhere((result != _least_or_most(np.maximum, values, grid, rows)).any(axis=0))
    turned = np.moveaxis(apply_orientation(np.moveaxis(values, 0, -1), grid.turn), -1, 0)
    result[:, *doubtful.T] = turned[:, *_nearest_in_monai(grid, doubtful).T]
    return result


def _resampled(image: "MetaTensor", pixdim: tuple[float, float, float], mode: Mode) -> "MetaTensor":
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms import Orientation, Spacing

    values = image.numpy()
    grid = grid_for(values.shape[1:], np.asarray(image.affine, np.float64), pixdim)
    if grid.wander > STRAIGHT:
        turned = Orientation("RAS", labels=None)(image)
        sheared: MetaTensor = Spacing(pixdim, mode=mode)(turned)
        return sheared
    sampled = linear(values, grid) if mode == "bilinear" else nearest(values, grid)
    return MetaTensor(torch.from_numpy(sampled), affine=torch.from_numpy(grid.affine))


def _axis_by_axis(values: Values, grid: Grid, sample: Callable[[Values, int, int], Values]) -> Values:
    """Samples along one axis after the other; the array keeps its order in memory.

    The axis that shrinks most comes first, of such that shrink alike the one whose planes lie farthest apart: to pick
    whole rows is cheaper than to pick single values. `sample` is given the array, which axis of the result is meant,
    and its place in the array.
    """
    in_memory = sorted(AXES, key=lambda axis: -abs(values.strides[1 + grid.source(axis)]))
    stored = values.transpose(0, *(1 + grid.source(axis) for axis in in_memory))
    for axis in sorted(in_memory, key=lambda axis: round(grid.size[axis] / grid.shape[axis], 1)):
        stored = sample(stored, axis, 1 + in_memory.index(axis))
    return stored.transpose(0, *(1 + in_memory.index(axis) for axis in AXES))


def _least_or_most(which: np.ufunc, values: Values, grid: Grid, rows: Mapping[int, tuple[Indices, Indices]]) -> Values:
    """The lowest or highest of the values that may be nearest to each point (`rows` as `_around` gives them)."""

    def sample(stored: Values, axis: int, place: int) -> Values:
        below, above = rows[axis]
        taken = _take(stored, below, place)
        return taken if below is above else which(taken, _take(stored, above, place))

    return _axis_by_axis(values, grid, sample)


def _between(grid: Grid, axis: int) -> tuple[Indices, NDArray[np.float32]]:
    """For the samples along an axis: the voxel before each, on the volume's own axis, and how far beyond it lies."""
    at, last = grid.coordinates(axis), grid.shape[axis] - 1
    at = last - at if grid.is_flipped(axis) else at
    before = np.floor(at)
    return before.astype(np.intp), (at - before).astype(np.float32)


def _interpolate(stored: Values, place: int, before: Indices, beyond: NDArray[np.float32]) -> Values:
    if not beyond.any():
        return _take(stored, before, place)
    last = stored.shape[place] - 1
    result, after = stored.take(before, place), stored.take(np.minimum(before + 1, last), place)
    after -= result
    after *= beyond.reshape([-1 if axis == place else 1 for axis in range(stored.ndim)])
    result += after
    return result


def _around(grid: Grid, axis: int) -> tuple[Indices, Indices]:
    """The nearest voxels on the volume's own axis, one row twice; two rows where samples lie midway between voxels."""
    at, last, margin = grid.coordinates(axis), grid.shape[axis] - 1, MIDWAY + grid.wander
    rows = [np.clip(np.floor(at + 0.5 + side), 0, last).astype(np.intp) for side in (-margin, margin)]
    below, above = (last - row if grid.is_flipped(axis) else row for row in rows)
    return below, (below if np.array_equal(below, above) else above)


def _take(stored: Values, row: Indices, place: int) -> Values:
    same = len(row) == stored.shape[place] and np.array_equal(row, np.arange(len(row)))
    return stored if same else stored.take(row, place)


def _nearest_in_monai(grid: Grid, points: NDArray[np.intp]) -> NDArray[np.intp]:
    """The voxel of the turned volume that MONAI's Spacing takes for each point [n, 3] of the grid.

    The same operations in the same order as torch's affine_grid and grid_sample (ATen, AffineGridGenerator.cpp and
    GridSampler.h; align_corners=False, border), so that the last bit is theirs. Their axes run backwards.
    """
    import torch
    from monai.networks.utils import to_norm_affine

    theta = to_norm_affine(torch.from_numpy(grid.to_source)[None], grid.shape, grid.size)[0]
    order = [2, 1, 0, 3]
    theta = theta[order][:, order][:3]
    ends = [torch.linspace(-1, 1, side, dtype=torch.float64) * (side - 1) / side for side in grid.size]
    # Products of a few rows are summed in another order than those of many, as MONAI's are.
    others = max(min(MANY, math.prod(grid.size)) - len(points), 0)
    rows = np.concatenate([points, np.zeros((others, 3), np.intp)])
    columns = [ends[axis][rows[:, axis]] for axis in order[:3]]
    products = torch.bmm(torch.stack([*columns, torch.ones_like(columns[0])], dim=1)[None], theta.T[None])
    normalised = products[0].numpy()[: len(points), ::-1]
    sides = np.array(grid.shape)
    at = ((normalised + 1) * sides - 1) / 2
    voxels: NDArray[np.intp] = np.rint(at.clip(0, sides - 1)).astype(np.intp)
    return voxels
