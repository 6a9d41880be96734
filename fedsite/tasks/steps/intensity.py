"""What is head and what is air, and intensities on a scale that does not depend on the scanner."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

BINS = 256
BRIGHT_END = 0.9
IQR_OF_NORMAL = 1.349


def foreground(image: "torch.Tensor") -> "torch.Tensor":
    """What is no air (`air_threshold`), as a boolean image."""
    return image > air_threshold(image.numpy())


def air_threshold(image: NDArray[np.floating]) -> float:
    """The value above which an image is tissue: of the head, or of the brain of a skull-stripped image.

    Otsu's threshold (1979, IEEE Trans. SMC 9:62): it maximises the variance between the two classes, whatever the
    scanner's scale and noise floor. Values above the 90th percentile count as that percentile, so that a bright lesion
    makes no class of its own.
    """
    import torch

    values = image.ravel(order="K")  # in the order of memory: which voxel is where does not matter
    rank = _rank(BRIGHT_END, values.size)
    ordered = np.partition(values, rank)
    low, high = float(ordered[:rank].min(initial=ordered[rank])), float(ordered[rank])
    counts = torch.histc(torch.from_numpy(ordered[: rank + 1]).float(), BINS, low, high).double().numpy()
    counts[-1] += values.size - rank - 1
    return _otsu(counts, np.linspace(low, high, BINS + 1))


def robust_z_score(image: "torch.Tensor", inside: "torch.Tensor", darkest: float, brightest: float) -> "torch.Tensor":
    """Intensities as distances from the foreground's median in robust standard deviations (IQR / 1.349).

    A lesion is the bright outlier that the network must see: median and quartiles do not move with it, mean and
    standard deviation would. The clip keeps air and artefacts in a range that float16 holds well. An image without
    foreground stays as it is.
    """
    values = image.numpy()[inside.numpy()]
    if not values.size:
        return image.clone()
    low, middle, high = quartiles(values)
    spread = max((high - low) / IQR_OF_NORMAL, 1e-6 * max(abs(middle), 1.0))
    return ((image - middle) / spread).clamp_(darkest, brightest)


def quartiles(values: NDArray[np.floating]) -> tuple[float, float, float]:
    """The values of a row at a quarter, half and three quarters of its ranks. (Reorders the row.)"""
    first, second, third = (_rank(fraction, values.size) for fraction in (0.25, 0.5, 0.75))
    values.partition(second)
    middle = values[second]
    # Half of the row is enough to find each of the others.
    lower, upper = values[: second + 1], values[second:]
    lower.partition(first)
    upper.partition(third - second)
    return float(lower[first]), float(middle), float(upper[third - second])


def _otsu(counts: NDArray[np.float64], edges: NDArray[np.float64]) -> float:
    """The edge that parts a histogram's two classes."""
    below, sums = counts.cumsum(), (counts * edges[1:]).cumsum()
    above = below[-1] - below
    difference = sums / below.clip(min=1) - (sums[-1] - sums) / above.clip(min=1)
    return float(edges[1 + int((below * above * difference**2).argmax())])


def _rank(fraction: float, count: int) -> int:
    return round(fraction * (count - 1))
