"""The page of what attacks found: how the evidence is spread, what is left of a patch, who was recognised."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsite.dataset import pictures
from fedsite.jobs.pages import writing
from fedsite.jobs.pages.curves import HEIGHT, WIDTH, Chart, Shape, path_of
from fedsite.privacy import lower_bounds
from fedsite.privacy.lower_bounds import Floats

if TYPE_CHECKING:
    from fedsite.jobs.privacy.attack import Found

BINS = 40
_OUTLYING = 0.5  # percent on either side, counted at the edges


def write(found: "Found") -> None:
    """Writes the page to where it shall lie. Raises CannotWrite."""
    inverted = found.inversion
    shown = {
        "the patch": inverted.patch,
        "from the raw gradient": inverted.of_raw,
        "from what is released": inverted.of_released,
        "from noise alone": inverted.of_noise,
    }
    writing.write(
        found.report,
        "attacks.html.j2",
        found=found,
        charts=charts(found),
        pictures=[(name, *pictures.mosaic(image[0])) for name, image in shown.items()],
    )


def charts(found: "Found") -> tuple[Chart, Chart]:
    """The evidence of the audit, and the ROC curves of membership."""
    audit, who = found.audit, found.membership
    recognised = (
        ("what is released", lower_bounds.rates(*who.scores.released)),
        ("raw", lower_bounds.rates(*who.scores.raw)),
        ("at most, by the mechanism", lower_bounds.gaussian_rates(who.mu)),
    )
    evidence = spread_chart(
        "Evidence of taking part", audit.scale, (("without", audit.without), ("with", audit.within))
    )
    return evidence, rates_chart("Who is recognised", recognised)


def rates_chart(title: str, curves: Sequence[tuple[str, Floats]]) -> Chart:
    """ROC curves, each a name and its points [n, 2]: the rate of strangers, and of members, who are called members."""
    shapes = [Shape("rule", 0, f"M0 {HEIGHT}L{WIDTH} 0")]
    for series, (_, points) in enumerate(curves):
        path = path_of([(WIDTH * across, HEIGHT * (1 - up)) for across, up in points.tolist()])
        shapes.append(Shape("line", series, path))
    along = tuple((share / 5, f"{share / 5:g}") for share in range(6))
    names = tuple(name for name, _ in curves)
    return Chart(title, names, tuple(shapes), "0", "1", along, "strangers taken for members")


def spread_chart(title: str, along_title: str, groups: Sequence[tuple[str, Floats]]) -> Chart:
    """How the values of some groups are spread, each as a histogram's outline; the highest is as high as the field."""
    low, high = np.percentile(np.concatenate([values for _, values in groups]), [_OUTLYING, 100 - _OUTLYING])
    high = max(high, low + 1e-9)
    counts = [np.histogram(np.clip(values, low, high), BINS, (low, high))[0] / len(values) for _, values in groups]
    tallest, wide = max(share.max() for share in counts), WIDTH / BINS
    shapes = []
    for series, shares in enumerate(counts):
        steps = "".join(f"V{HEIGHT * (1 - share / tallest):.1f}h{wide:.1f}" for share in shares)
        shapes.append(Shape("line", series, f"M0 {HEIGHT}{steps}V{HEIGHT}"))
    along = tuple((share / 4, f"{low + share / 4 * (high - low):.2g}") for share in range(5))
    names = tuple(name for name, _ in groups)
    return Chart(title, names, tuple(shapes), "0", f"{tallest:.0%}", along, along_title)
