"""Whether the values of a CT can be Hounsfield units: air is -1000, water 0, soft tissue within 100 of it.

An export that lost its intercept, or scales twice, looks like any other, and a network learns from it in silence. What
is looked at are shares of the volume, never extremes: padding beyond the field of view, metal (up to 30,000 HU on an
extended scale) and its streaks are no fault, and neither is a volume without air, such as an extracted brain.
"""

import math

import numpy as np
from numpy.typing import NDArray

# So many voxels are looked at: the shares below are tenths and hundredths.
SAMPLE = 1 << 18
# No air is less dense; what lies lower as one single value is padding that the header does not name.
LOWEST_AIR = -1250.0
# Fat to clotted blood, with the noise of a thin slice. Where stored values were taken for Hounsfield units, the same
# tissue lies about 1024 higher.
TISSUE, SHIFTED_TISSUE = (-200.0, 200.0), (850.0, 1250.0)
# Scanners write 1, rarely 0.1 to 16: beyond these, a whole head would lie within 40 HU or reach 300,000.
LEAST_SLOPE, GREATEST_SLOPE = 0.01, 100.0
# Where lung begins, where air ends; what is denser than soft tissue, than spongy bone, than cortical bone and tooth.
LUNG, AIR, DENSE, BONE, METAL = -800.0, -250.0, 200.0, 800.0, 4000.0


def sampling_step(voxels: int) -> int:
    """Every how many rows and columns to look at of a volume of so many voxels."""
    return max(1, math.isqrt(voxels // SAMPLE))


def doubt(sample: NDArray[np.float32]) -> str:
    """Why these values (of a sample of the voxels, without padding) cannot be Hounsfield units; "" if they can."""
    values = _without_unnamed_padding(sample)
    if not values.size:
        return ""
    tissue, has_air = _share(values, *TISSUE), _share(values, -math.inf, AIR) > 0.001
    # The last condition: padding that was compressed with loss is no single value.
    if (low := _share(values, -math.inf, LOWEST_AIR)) > 0.05 and tissue < 0.4 * _share(values, LUNG):
        return f"{low:.0%} of the voxels are less dense than air"
    if (metal := _share(values, METAL)) > 0.02 and metal > 0.5 * _share(values, AIR):
        return "most of what is no air is as dense as metal"
    dense, bone = _share(values, DENSE), _share(values, BONE)
    if bone > 0.9:
        return "nearly all is as dense as bone"
    if not has_air and tissue > 0.3 and dense > 0.05 and bone > 0.4 * dense:
        return "there is no air, but something else with much bone in it"
    # True bone spreads over hundreds of units, soft tissue is a peak. Without air, air may be what looks like tissue.
    shifted = _share(values, *SHIFTED_TISSUE)
    if dense > 0.02 and shifted > 0.5 * dense and not (has_air and tissue >= shifted):
        return "soft tissue lies where bone should"
    return ""


def _without_unnamed_padding(sample: NDArray[np.float32]) -> NDArray[np.float32]:
    lowest = sample.min(initial=0)
    return sample[sample > lowest] if lowest < LOWEST_AIR else sample


def _share(values: NDArray[np.float32], least: float, below: float = math.inf) -> float:
    return float(np.count_nonzero((values >= least) & (values < below)) / values.size)
