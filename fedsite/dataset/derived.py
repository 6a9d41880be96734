"""Images that are computed while they are read: a trace from single directions, an ADC map in its usual unit."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedsite.errors import DataNotFit

Voxels = NDArray[np.float32]

# The ADC of tissue in 10^-6 mm2/s, from dense white matter or a fresh infarct to water, with room on both sides.
_LEAST_ADC, _MOST_ADC = 100.0, 5000.0
# What scanners store: 10^-6 mm2/s, 10^-3 mm2/s, mm2/s.
_ADC_FACTORS = (1.0, 1e3, 1e6)


def geometric_mean(images: Iterable[Voxels]) -> Voxels:
    """The voxel-wise geometric mean of diffusion images of single directions: the trace-weighted image.

    exp(-b D_i) multiplied over three orthogonal directions i is exp(-b trace(D)); its cube root is the signal for
    the mean diffusivity (Mori & van Zijl 1995, Magn. Reson. Med. 33:41). One image is in memory at a time.
    """
    count = 0
    logs: Voxels | None = None
    with np.errstate(divide="ignore"):  # the logarithm of no signal is -infinity, whose exponential is no signal
        for image in images:
            own = np.log(np.maximum(image, 0))
            logs = own if logs is None else logs + own
            count += 1
    assert logs is not None
    mean: Voxels = np.exp(logs / count)
    return mean


def adc_in_usual_unit(voxels: Voxels) -> Voxels:
    """An ADC map in 10^-6 mm2/s, whichever unit it was stored in.

    Headers rarely say the unit, and some say it wrongly; but the units are a factor of a thousand apart and tissue is
    not, so the median of the map tells. Raises DataNotFit when no unit makes the values those of tissue.
    """
    positive = voxels[voxels > 0]
    median = float(np.median(positive)) if positive.size else 0.0
    for factor in _ADC_FACTORS:
        if _LEAST_ADC <= median * factor <= _MOST_ADC:
            return voxels if factor == 1 else voxels * np.float32(factor)
    raise DataNotFit(
        f"In no usual unit is {median:g}, the median of the ADC map, that of tissue.",
        "Export the map with its rescale slope, as the scanner computed it.",
    )
