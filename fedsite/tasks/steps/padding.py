"""An image that is smaller than a network's window, made as large."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def padded(pixels: "torch.Tensor", sides: tuple[int, int, int]) -> "tuple[torch.Tensor, tuple[slice, slice, slice]]":
    """The image [C, X, Y, Z] with at least these sides, its content in the middle; and where that is.

    Around it is the darkest value of each channel.
    """
    import torch
    from torch.nn import functional

    given = tuple(pixels.shape[1:])
    missing = [max(side - length, 0) for side, length in zip(sides, given, strict=True)]
    x, y, z = (slice(gap // 2, gap // 2 + length) for gap, length in zip(missing, given, strict=True))
    if any(missing):
        widths = [width for gap in reversed(missing) for width in (gap // 2, gap - gap // 2)]
        pixels = torch.stack([functional.pad(channel, widths, value=float(channel.min())) for channel in pixels])
    return pixels, (x, y, z)
