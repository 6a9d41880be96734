"""The preprocessing of a stroke case in plain MONAI and torch: what fedsite's own steps must be equal to.

Tests hold fedsite's result to this one; scripts/bench_preparation measures how much less work it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms import Compose, CropForegroundd, Orientationd, ScaleIntensityRanged, Spacingd

from fedsite.tasks.steps.chain import BRIGHTEST, DARKEST, MARGIN_MM

KEYS = ("image", "label")
Step = Callable[[dict[str, Any]], dict[str, Any]]


def grid(spacing_mm: Sequence[float]) -> list[Step]:
    """RAS axes and the spacing (mm), as MONAI does them."""
    return [
        # With labels unnamed MONAI warns that their default changes; None takes the MetaTensor's own space (RAS).
        Orientationd(KEYS, axcodes="RAS", labels=None),
        Spacingd(KEYS, pixdim=spacing_mm, mode=["bilinear", "nearest"]),
    ]


def stroke_dwi(spacing_mm: Sequence[float]) -> list[Step]:
    """What `fedsite.tasks.stroke_dwi.preprocessing` does."""
    return [
        *grid(spacing_mm),
        lambda case: {**case, "foreground": foreground(case["image"])},
        CropForegroundd(
            [*KEYS, "foreground"],
            source_key="foreground",
            margin=[round(MARGIN_MM / side) for side in spacing_mm],
            allow_smaller=True,
            start_coord_key=None,
            end_coord_key=None,
        ),
        lambda case: {"image": robust_z_score(case["image"], case["foreground"]), "label": case["label"]},
    ]


def ct_window() -> list[Step]:
    """Hounsfield units from 0 to 80 as 0 to 1, cropped to what is above 0: CT in its plainest form."""
    return [
        ScaleIntensityRanged("image", a_min=0, a_max=80, b_min=0, b_max=1, clip=True),
        CropForegroundd(KEYS, source_key="image", allow_smaller=True, start_coord_key=None, end_coord_key=None),
    ]


def chain(steps: Sequence[Step]) -> Step:
    """The steps one after the other."""
    composed: Step = Compose(steps)
    return composed


def foreground(image: torch.Tensor, bins: int = 256) -> torch.Tensor:
    """Above Otsu's threshold, values above the 90th percentile counting as that."""
    values = image.as_subclass(torch.Tensor).float()
    values = values.clamp(max=_percentile(values, 0.9))
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, bins, low, high).double()
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    below, sums = counts.cumsum(0), (counts * edges[1:]).cumsum(0)
    above = below[-1] - below
    difference = sums / below.clamp(min=1) - (sums[-1] - sums) / above.clamp(min=1)
    between = below * above * difference**2
    return image > float(edges[1 + int(between.argmax())])


def robust_z_score(image: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Distances from the foreground's median in robust standard deviations, clipped."""
    values = image[inside].as_subclass(torch.Tensor)
    if values.numel() == 0:
        return image.clone()
    low, middle, high = (_percentile(values, fraction) for fraction in (0.25, 0.5, 0.75))
    spread = max((high - low) / 1.349, 1e-6 * max(abs(middle), 1.0))
    return ((image - middle) / spread).clamp(DARKEST, BRIGHTEST)


def _percentile(values: torch.Tensor, fraction: float) -> float:
    flat = values.flatten()
    return float(flat.kthvalue(1 + round(fraction * (len(flat) - 1))).values)
