"""What passes from a sampler to a step: patches on the host, and how each of them is to be changed."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Change:
    """The augmentation of one patch, drawn on the host and applied on the training device.

    `flips` along x, y, z; `scale` and `shift` of each input; `gamma` (1: none); `noise`, the standard deviation of
    what is added from a generator of this `seed` (0: none); `dropped` inputs become zero, as a missing image is.
    """

    flips: tuple[bool, bool, bool]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    gamma: float
    noise: float
    seed: int
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """image: float16 or float32 [B, C, x, y, z]; label: uint8 [B, 1, x, y, z]; changes: one a patch, or none at all."""

    image: torch.Tensor
    label: torch.Tensor
    changes: tuple[Change, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, part: slice) -> "Batch":
        """Some of its patches (views)."""
        return Batch(self.image[part], self.label[part], self.changes[part])

    def to(self, device: torch.device) -> "Batch":
        """The same patches on another device. From page-locked memory this waits for nothing."""
        return Batch(self.image.to(device, non_blocking=True), self.label.to(device, non_blocking=True), self.changes)

    def pinned(self) -> "Batch":
        """The same in page-locked memory, from which a GPU copies while it computes. Needs CUDA."""
        return Batch(self.image.pin_memory(), self.label.pin_memory(), self.changes)
