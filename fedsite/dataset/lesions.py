"""A mask's size and place in the head, and how much of it the prepared grid can hold."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset.head import Head
from fedsite.dataset.manifest import InputState
from fedsite.dataset.rules import finding
from fedsite.dicom.checks import Finding

Mask = NDArray[np.uint8]
Affine = NDArray[np.float64]

TINY_VOXELS = 5
# The largest infarcts take up a third of a brain (malignant stroke of the middle cerebral artery: about 400 ml), and
# a brain half of the head in an image's field.
LARGEST_SHARE: dict[InputState, float] = {"skull-stripped": 0.4, "whole-head": 0.25}
OUTSIDE_SHARE = 0.3
LEAST_CEILING = 0.7


def check_lesion(mask: Mask, head: Head, state: InputState, where: str) -> list[Finding]:
    """Rules for the size and the place of what a mask [i, j, k] marks; nothing of an empty mask."""
    marked = marked_voxels(mask)
    if not len(marked):
        return []
    findings = []
    outside = 1 - float(head.holds(marked).mean())
    if outside == 1:
        return [finding("label-off-head", where)]
    if outside > OUTSIDE_SHARE:
        findings.append(finding("label-partly-off-head", where, share=outside))
    share = len(marked) / max(head.voxels, 1)
    if share > LARGEST_SHARE[state]:
        findings.append(finding("lesion-outlying", where, share=share))
    elif len(marked) < TINY_VOXELS:
        findings.append(finding("lesion-tiny", where, count=len(marked)))
    return findings


def check_ceiling(ceiling: float | None, where: str) -> list[Finding]:
    """The rule for a Dice ceiling (None: there is no lesion, or nothing left of it)."""
    if not ceiling or ceiling >= LEAST_CEILING:
        return []
    return [finding("label-coarse", where, ceiling=ceiling)]


def dice_ceiling(mask: Mask, affine: Affine, prepared: Mask, prepared_affine: Affine) -> float | None:
    """The Dice that a perfect model could reach on the image's own grid; None without a lesion.

    The prepared mask [X, Y, Z] is brought back to the mask's grid [i, j, k] by nearest neighbour, and compared with
    the mask there; labels count alike. What lies beyond the prepared grid is lost.
    """
    drawn = marked_voxels(mask)
    if not len(drawn):
        return None
    kept = marked_voxels(prepared)
    if not len(kept):
        return 0.0
    to_prepared: Affine = np.linalg.inv(prepared_affine) @ affine
    low, high = _box_of(drawn, kept, np.linalg.inv(affine) @ prepared_affine, mask.shape)
    both = back = 0
    last = np.array(prepared.shape)
    # One plane after the other: a mask may fill a volume.
    i, j = (to_prepared[:3, axis, None] * np.arange(low[axis], high[axis]) for axis in (0, 1))
    plane = i[:, :, None] + j[:, None, :] + to_prepared[:3, 3, None, None]
    for k in range(low[2], high[2]):
        at = np.rint(plane + to_prepared[:3, 2, None, None] * k).astype(np.intp)
        within = ((at >= 0) & (at < last[:, None, None])).all(axis=0)
        label = np.zeros(within.shape, bool)
        label[within] = prepared[tuple(at[:, within])] > 0
        back += int(np.count_nonzero(label))
        both += int(np.count_nonzero(label & (mask[low[0] : high[0], low[1] : high[1], k] > 0)))
    return 2 * both / (len(drawn) + back)


def marked_voxels(mask: Mask) -> NDArray[np.intp]:
    """The voxels [n, 3] that a mask marks, in no particular order."""
    # In the order of memory: np.argwhere takes seconds for a CT in Fortran order.
    order: Literal["F", "C"] = "F" if mask.flags.f_contiguous else "C"
    marked = np.flatnonzero(mask.ravel(order=order) != 0)
    return np.stack(np.unravel_index(marked, mask.shape, order=order), axis=-1)


def _box_of(
    drawn: NDArray[np.intp], kept: NDArray[np.intp], to_own: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """The box of an image's voxels in which the mask, or what is kept of it, may lie."""
    corners = np.stack(np.meshgrid(*zip(kept.min(axis=0) - 0.5, kept.max(axis=0) + 0.5, strict=True)), axis=-1)
    reach = corners.reshape(-1, 3) @ to_own[:3, :3].T + to_own[:3, 3]
    low = np.minimum(drawn.min(axis=0), np.floor(reach.min(axis=0)).astype(int))
    high = np.maximum(drawn.max(axis=0), np.ceil(reach.max(axis=0)).astype(int)) + 1
    return low.clip(0).tolist(), np.minimum(high, shape).tolist()
