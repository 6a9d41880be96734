"""Where the head is in an image, roughly (3 mm): enough to judge a mask's place and size and an image's coverage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsite.tasks.steps.intensity import air_threshold

SIDE_MM = 3.0
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Head:
    """The head's hull on blocks of `block` voxels of the image that it was found in; `shape` is the image's."""

    hull: Bits
    block: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def voxels(self) -> int:
        """How many of the image's voxels it takes up."""
        return int(np.count_nonzero(self.hull)) * int(np.prod(self.block))

    def holds(self, voxels: NDArray[np.intp]) -> Bits:
        """For each voxel [n, 3] of the image whether it lies in the head, or within a block of it."""
        last = np.array(self.hull.shape) - 1
        blocks = np.minimum(voxels // np.array(self.block), last)
        inside: Bits = _grown(self.hull)[tuple(blocks.T)]
        return inside

    def share_in(self, bits: Bits) -> float:
        """Which share of the head lies where `bits` (of the image's shape) are set; 1 of no head at all."""
        middle = tuple(
            np.minimum(np.arange(count) * block + block // 2, side - 1)
            for count, block, side in zip(self.hull.shape, self.block, self.shape, strict=True)
        )
        within = bits[np.ix_(*middle)][self.hull]
        return float(within.mean()) if within.size else 1.0


def find_head(image: NDArray[np.float32], affine: NDArray[np.float64]) -> Head:
    """The head (or the brain alone, where the skull was stripped) in image [i, j, k].

    What is brighter than air, with every hollow that lies between such blocks along each of the three axes: a
    ventricle or an old infarct is as dark as air in many images.
    """
    small, block = coarse(image, affine)
    tissue = small > air_threshold(small)
    hull = np.ones_like(tissue)
    for axis in range(3):
        before = np.maximum.accumulate(tissue, axis=axis)
        after = np.flip(np.maximum.accumulate(np.flip(tissue, axis), axis=axis), axis)
        hull &= before & after
    return Head(hull, block, image.shape)


def coarse(image: NDArray[np.float32], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """The image in blocks of about 3 mm, each the mean of some of its voxels, and the sides of a block in voxels.

    Of large blocks every second voxel or so is looked at: that is enough against noise. The last voxels of an axis
    that fill no block are left out.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    block = tuple(
        min(side, max(1, round(SIDE_MM / step))) for side, step in zip(image.shape, spacing.tolist(), strict=True)
    )
    counts = [side // length for side, length in zip(image.shape, block, strict=True)]
    mean = np.zeros(counts, np.float32, order="F")
    picks = [sorted({length // 4, 3 * length // 4}) for length in block]
    chosen = [(i, j, k) for i in picks[0] for j in picks[1] for k in picks[2]]
    for start in chosen:
        mean += image[
            tuple(
                slice(first, first + count * length, length)
                for first, count, length in zip(start, counts, block, strict=True)
            )
        ]
    mean /= len(chosen)
    return mean, block


def _grown(bits: Bits) -> Bits:
    """With the neighbours of every set block along the axes."""
    padded = np.pad(bits, 1)
    grown = bits.copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + bits.shape[axis])
            grown |= padded[tuple(window)]
    return grown
