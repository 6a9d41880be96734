"""Patches for training, read straight from memory-mapped cases: what is not in a patch never leaves the disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedsite.errors import DataNotFit

Sides = tuple[int, int, int]

SCALE, SHIFT = 0.1, 0.1


class CaseLike(Protocol):
    """A prepared case: image float16 [C, X, Y, Z], label uint8 [X, Y, Z], both usually memory-mapped."""

    @property
    def image(self) -> NDArray[np.floating]:
        """[C, X, Y, Z]"""
        ...

    @property
    def label(self) -> NDArray[np.uint8]:
        """[X, Y, Z]"""
        ...


@dataclass(frozen=True)
class Batch:
    """image: float32 [B, C, x, y, z]; label: uint8 [B, 1, x, y, z]."""

    image: torch.Tensor
    label: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.image.to(device, non_blocking=True), self.label.to(device, non_blocking=True))


class PatchSampler:
    """Draws batches of random patches; the batch of a step depends on seed and step alone.

    Each patch comes from a case drawn uniformly. With probability `foreground_fraction` it must hold a voxel of
    the case's foreground (where the case has any), else it lies anywhere. A case smaller than the patch is padded
    with the darkest value of what was read. Light augmentation: flips along each axis, intensity times
    [1 - SCALE, 1 + SCALE] plus [-SHIFT, SHIFT] (in standard deviations), per patch.

    A batch of one small patch falls to torch's slow convolution on a CPU; a batch of two costs the same time.

    Raises DataNotFit without any case.
    """

    def __init__(
        self,
        cases: Sequence[CaseLike],
        patch_voxels: Sides,
        batch_size: int,
        foreground_fraction: float,
        seed: int,
    ) -> None:
        if not cases:
            raise DataNotFit("There is no case to train on.", "Prepare data for this plan's task first.")
        self.cases = cases
        self.patch_voxels = patch_voxels
        self.batch_size = batch_size
        self.foreground_fraction = foreground_fraction
        self.seed = seed

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        random = np.random.default_rng([self.seed, step])
        images, labels = zip(*[self._patch(random) for _ in range(self.batch_size)], strict=True)
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)[:, None]))

    def _patch(self, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        case = self.cases[int(random.integers(len(self.cases)))]
        region = self._region(case.label, random)
        image = np.asarray(case.image[:, *region], dtype=np.float32)
        label = np.asarray(case.label[region])
        image, label = _padded(image, label, self.patch_voxels)
        return _augmented(image, label, random)

    def _region(self, label: NDArray[np.uint8], random: np.random.Generator) -> tuple[slice, slice, slice]:
        """Where the patch lies; it may be shorter than asked along an axis on which the case is."""
        lowest = np.zeros(3, dtype=np.int64)
        highest = np.maximum(np.array(label.shape) - self.patch_voxels, 0)
        if random.random() < self.foreground_fraction:
            # Found anew for each patch: a list kept for each case would grow with the number of studies.
            foreground = np.flatnonzero(label)
            if foreground.size:
                voxel = np.array(np.unravel_index(foreground[random.integers(foreground.size)], label.shape))
                lowest = np.clip(voxel - self.patch_voxels + 1, lowest, highest)
                highest = np.minimum(voxel, highest)
        starts = random.integers(lowest, highest, endpoint=True)
        x, y, z = (slice(int(start), int(start) + side) for start, side in zip(starts, self.patch_voxels, strict=True))
        return x, y, z


def _padded(
    image: NDArray[np.float32], label: NDArray[np.uint8], sides: Sides
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Both brought to the given sides, the content in the middle, air (the darkest value) and background around."""
    missing = [max(side - given, 0) for side, given in zip(sides, label.shape, strict=True)]
    if not any(missing):
        return image, label
    widths = [(gap // 2, gap - gap // 2) for gap in missing]
    image = np.stack([np.pad(channel, widths, constant_values=channel.min()) for channel in image])
    return image, np.pad(label, widths)


def _augmented(
    image: NDArray[np.float32], label: NDArray[np.uint8], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    axes = tuple(axis for axis in (-3, -2, -1) if random.random() < 0.5)
    scale = random.uniform(1 - SCALE, 1 + SCALE, size=(len(image), 1, 1, 1))
    shift = random.uniform(-SHIFT, SHIFT, size=(len(image), 1, 1, 1))
    return (np.flip(image, axes) * scale + shift).astype(np.float32), np.flip(label, axes)
