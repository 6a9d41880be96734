"""Augmentation: drawn for each patch from its own generator on the host, applied on the training device.

Flips along each axis, intensity times `scale` plus `shift` (in standard deviations: images are standardised), now and
then a gamma curve or noise, as nnU-Net does (Isensee et al. 2021, Nature Methods 18:203), all of it light.
"""

import numpy as np
import torch

from fedsite.training.batches import Batch, Change

SCALE, SHIFT = 0.1, 0.1
RARELY = 0.15
GAMMA = (0.7, 1.5)
NOISE = 0.1


def draw(random: np.random.Generator, inputs: int, dropped: tuple[int, ...] = ()) -> Change:
    """How one patch of so many inputs is to be changed. It takes the same number of draws whatever they give."""
    flips = random.random(3) < 0.5
    scale = random.uniform(1 - SCALE, 1 + SCALE, inputs)
    shift = random.uniform(-SHIFT, SHIFT, inputs)
    curved, noisy = random.random(2) < RARELY
    gamma, noise = random.uniform(*GAMMA), random.uniform(0, NOISE)
    return Change(
        flips=(bool(flips[0]), bool(flips[1]), bool(flips[2])),
        scale=tuple(scale.tolist()),
        shift=tuple(shift.tolist()),
        gamma=gamma if curved else 1.0,
        noise=noise if noisy else 0.0,
        seed=int(random.integers(1 << 62)),
        dropped=dropped,
    )


def augment(batch: Batch) -> Batch:
    """The batch with its changes made, on the device where it is: image float32. It is left as it was itself."""
    if not batch.changes:
        return Batch(batch.image.float(), batch.label)
    image = torch.empty(batch.image.shape, dtype=torch.float32, device=batch.image.device)
    label = torch.empty_like(batch.label)
    for number, change in enumerate(batch.changes):
        axes = [axis for axis, flip in zip((-3, -2, -1), change.flips, strict=True) if flip]
        image[number] = batch.image[number].flip(axes)
        label[number] = batch.label[number].flip(axes)
        _change_intensities(image[number], change)
    return Batch(image, label)


def _change_intensities(image: torch.Tensor, change: Change) -> None:
    """In place; image: float32 [C, x, y, z]."""
    if change.gamma != 1:
        # On the patch's own range, which stays what it was.
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        width = (high - low).clamp_min(1e-6)
        image.sub_(low).div_(width).pow_(change.gamma).mul_(width).add_(low)
    if change.noise:
        generator = torch.Generator(image.device).manual_seed(change.seed)
        image.add_(torch.randn(image.shape, generator=generator, device=image.device), alpha=change.noise)
    for channel, scale, shift in zip(image, change.scale, change.shift, strict=True):
        channel.mul_(scale).add_(shift)
    for index in change.dropped:
        image[index] = 0
