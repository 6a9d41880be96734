"""Where the head is on a CT, whose values mean the same on every scanner."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Hounsfield units. Fat lies at -100, a cushion or a head rest of foam below -200, air at -1000.
DENSER_THAN_AIR = -200.0
COARSE_VOXELS = 4


def head(image: "torch.Tensor") -> "torch.Tensor":
    """The largest connected piece that is denser than air, as a boolean image: neither table nor head rest.

    Found on every fourth voxel or so and no finer: it says where to crop. Exact zeros, which a tool leaves that took
    the skull off, are no tissue. Without any tissue it is the whole image.
    """
    import torch
    from scipy import ndimage

    values = image[0].numpy()
    steps = [min(COARSE_VOXELS, max(1, side // COARSE_VOXELS)) for side in values.shape]
    coarse = values[tuple(slice(None, None, step) for step in steps)]
    pieces, count = ndimage.label((coarse > DENSER_THAN_AIR) & (coarse != 0))
    if not count:
        return torch.ones_like(image, dtype=torch.bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    fine = pieces == sizes.argmax()
    for axis, (step, side) in enumerate(zip(steps, values.shape, strict=True)):
        fine = np.repeat(fine, step, axis)[tuple(slice(side) if each == axis else slice(None) for each in range(3))]
    return image.new_tensor(fine[None], dtype=torch.bool)
