"""Where the head is on a CT, whose values mean the same on every scanner."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Hounsfield units. Fat lies at -100, a cushion or a head rest of foam below -200, air at -1000.
DENSER_THAN_AIR = -200.0
COARSE_MM = 4.0


def head(image: "torch.Tensor", spacing_mm: tuple[float, float, float]) -> "torch.Tensor":
    """The largest connected piece that is denser than air, as a boolean image: neither table nor head rest.

    What is connected is seen on a grid of about 4 mm, which is enough to say where to crop. Exact zeros, which a
    tool leaves that took the skull off, are no tissue. Without any tissue it is the whole image.
    """
    import torch
    from scipy import ndimage

    values = image[0].numpy()
    tissue = (values > DENSER_THAN_AIR) & (values != 0)
    steps = [max(1, round(COARSE_MM / side)) for side in spacing_mm]
    pieces, count = ndimage.label(tissue[tuple(slice(None, None, step) for step in steps)])
    if not count:
        return torch.ones_like(image, dtype=torch.bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    # Its surface lies somewhere between the voxels that were looked at.
    piece = ndimage.binary_dilation(pieces == sizes.argmax(), np.ones((3, 3, 3)))
    for axis, step in enumerate(steps):
        piece = np.repeat(piece, step, axis)
    return image.new_tensor(tissue & piece[tuple(map(slice, values.shape))], dtype=torch.bool)[None]
