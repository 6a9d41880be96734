"""Patches for training, read straight from memory-mapped cases: what is not in a patch never leaves the disk."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedsite.errors import DataNotFit
from fedsite.tasks.description import Task
from fedsite.training.augmentation import draw
from fedsite.training.batches import Batch, Change

Sides = tuple[int, int, int]
# So many cases stay open: opening one costs as much as reading a patch, and an open one hardly more than an address.
OPEN_CASES = 256
Patch = tuple[NDArray[np.float16], NDArray[np.uint8], Change]


class CaseLike(Protocol):
    """A prepared case: image float16 [C, X, Y, Z], label uint8 [X, Y, Z], both usually memory-mapped."""

    @property
    def image(self) -> NDArray[np.float16]:
        """[C, X, Y, Z]"""
        ...

    @property
    def label(self) -> NDArray[np.uint8]:
        """[X, Y, Z]"""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """The optional channels that the study did not have: their inputs are zero."""
        ...

    def foreground(self) -> NDArray[np.integer]:
        """Where the label is not background: sorted indices into the label in C order."""
        ...


class PatchSampler:
    """Draws batches of random patches; each depends on the seed, the step and its place in the batch alone.

    Each patch comes from a case drawn uniformly. With probability `foreground_fraction` it must hold a voxel of
    the case's foreground (where the case has any), else it lies anywhere. A case smaller than the patch is padded
    with the darkest value of what was read. How it is augmented is drawn with it (`training.augmentation`).

    `optional` names the inputs of each optional channel; with probability `channel_dropout` such a channel is dropped
    from a patch, so that the network learns to do without. `part` picks the patches of each batch that this process
    makes, where several share the work. Patches that go to a GPU (`device`) lie in page-locked memory.

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
        *,
        optional: Mapping[str, tuple[int, ...]] | None = None,
        channel_dropout: float = 0,
        part: slice = slice(None),
        device: torch.device | None = None,
    ) -> None:
        if not cases:
            raise DataNotFit("There is no case to train on.", "Prepare data for this plan's task first.")
        self._cases = len(cases)
        self._case = lru_cache(OPEN_CASES)(cases.__getitem__)
        self.patch_voxels = patch_voxels
        self.foreground_fraction = foreground_fraction
        self.seed = seed
        self.optional = optional or {}
        self.channel_dropout = channel_dropout
        self.places = range(batch_size)[part]
        self.device = device

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        return self.batch([(step, place) for place in self.places], range(self._cases))

    def batch(self, places: Iterable[tuple[int, ...]], cases: Sequence[int]) -> Batch:
        """A patch for each place, from these cases; its numbers and the seed alone decide how it is drawn."""
        images, labels, changes = zip(*[self._patch(place, cases) for place in places], strict=True)
        made = Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)[:, None]), changes)
        if self.device is None or self.device.type != "cuda":
            return made
        with torch.cuda.device(self.device):  # the thread that reads ahead would begin on the first GPU
            return made.pinned()

    def _patch(self, place: tuple[int, ...], cases: Sequence[int]) -> Patch:
        random = np.random.default_rng([self.seed, *place])
        case = self._case(cases[int(random.integers(len(cases)))])
        region = self._region(case, random)
        image, label = np.asarray(case.image[:, *region]), np.asarray(case.label[region])
        image, label = _padded(image, label, self.patch_voxels)
        return image, label, draw(random, len(image), self._dropped(case, random))

    def _dropped(self, case: CaseLike, random: np.random.Generator) -> tuple[int, ...]:
        gone = {name for name in self.optional if random.random() < self.channel_dropout} | set(case.missing)
        return tuple(index for name, inputs in self.optional.items() if name in gone for index in inputs)

    def _region(self, case: CaseLike, random: np.random.Generator) -> tuple[slice, slice, slice]:
        """Where the patch lies; it may be shorter than asked along an axis on which the case is."""
        shape = case.label.shape
        lowest = np.zeros(3, dtype=np.int64)
        highest = np.maximum(np.array(shape) - self.patch_voxels, 0)
        if random.random() < self.foreground_fraction:
            foreground = case.foreground()
            if foreground.size:
                voxel = np.array(np.unravel_index(foreground[random.integers(foreground.size)], shape))
                lowest = np.clip(voxel - self.patch_voxels + 1, lowest, highest)
                highest = np.minimum(voxel, highest)
        starts = random.integers(lowest, highest, endpoint=True)
        x, y, z = (slice(int(start), int(start) + side) for start, side in zip(starts, self.patch_voxels, strict=True))
        return x, y, z


def optional_inputs(task: Task) -> dict[str, tuple[int, ...]]:
    """The indices of the network's inputs that each optional channel of the (narrowed) task gives."""
    order = {name: index for index, name in enumerate(task.inputs)}
    return {
        channel.name: tuple(order[name] for name in channel.inputs) for channel in task.channels if channel.optional
    }


def _padded(
    image: NDArray[np.float16], label: NDArray[np.uint8], sides: Sides
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Both brought to the given sides, the content in the middle, air (the darkest value) and background around."""
    missing = [max(side - given, 0) for side, given in zip(sides, label.shape, strict=True)]
    if not any(missing):
        return image, label
    widths = [(gap // 2, gap - gap // 2) for gap in missing]
    image = np.stack([np.pad(channel, widths, constant_values=channel.min()) for channel in image])
    return image, np.pad(label, widths)
