"""From the prepared grid back to the one that a study came on: where results are measured, and handed over."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
Labels = NDArray[np.uint8]
Affine = NDArray[np.float64]

# Voxels of the source that are worked on at a time.
_SLAB_VOXELS = 1 << 20


@dataclass(frozen=True)
class SourceGrid:
    """The grid of a study's first image as it was stored: its `shape` [i, j, k], and `affine` from there to RAS mm."""

    shape: tuple[int, int, int]
    affine: Affine


def to_source_grid(
    probabilities: Probabilities, affine: Affine, source: SourceGrid, decode: Callable[[Probabilities], Labels]
) -> Labels:
    """The labels [i, j, k] on the source's own grid that probabilities [outputs, X, Y, Z] mean there.

    `affine` is that of the prepared grid (RAS, mm). Probabilities are interpolated trilinearly and decoded afterwards,
    so that borders lie where the network saw them and not on its coarser voxels. What the prepared grid does not cover
    is background.

    `decode` leads from probabilities [outputs, ...] to labels [...]. It must give background for any mean of values
    that it gives background for, as the largest of several and a threshold do: then only the neighbourhood of what is
    marked has to be looked at, and the result is that of looking everywhere.
    """
    from scipy.ndimage import map_coordinates

    labels = np.zeros(source.shape, np.uint8)
    marked = decode(probabilities) != 0
    if not marked.any():
        return labels
    low, high = _box(marked, np.linalg.inv(source.affine) @ affine, source.shape)
    to_prepared = np.linalg.inv(affine) @ source.affine
    last = np.array(marked.shape)[:, None, None, None] - 1
    i, j, k = (to_prepared[:3, axis, None] * np.arange(low[axis], high[axis]) for axis in range(3))
    plane = i[:, :, None, None] + j[:, None, :, None] + to_prepared[:3, 3, None, None, None]
    step = max(1, _SLAB_VOXELS // max(1, plane[0].size))
    for first in range(0, k.shape[1], step):
        at = plane + k[:, None, None, first : first + step]
        covered = ((at >= -0.5) & (at <= last + 0.5)).all(axis=0)
        sure = np.stack([map_coordinates(one, at, order=1, mode="nearest") for one in probabilities])
        part = np.where(covered, decode(sure), 0)
        start = low[2] + first
        labels[low[0] : high[0], low[1] : high[1], start : start + part.shape[2]] = part
    return labels


def _box(marked: NDArray[np.bool_], to_source: Affine, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The box of the source's voxels that may lie within one prepared voxel of what is marked: first and end."""
    lows, highs = [], []
    for axis in range(3):
        filled = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
        lows.append(filled[0] - 1)
        highs.append(filled[-1] + 1)
    corners = np.stack(np.meshgrid(*zip(lows, highs, strict=True)), axis=-1).reshape(-1, 3)
    reach = corners @ to_source[:3, :3].T + to_source[:3, 3]
    low = np.floor(reach.min(axis=0)).astype(int).clip(0, shape)
    high = (np.ceil(reach.max(axis=0)).astype(int) + 1).clip(low, shape)
    return low.tolist(), high.tolist()
