"""Curves over rounds and histograms as shapes (SVG 1.1, 8.3) on a field of 1000 by 300, for pages without scripts.

A field is stretched to the page; so it holds no text, and its lines keep their width whatever the stretching.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

WIDTH, HEIGHT = 1000, 300
MOST_LABELS = 11


@dataclass(frozen=True)
class Point:
    """One model's mean Dice over held-out patients, and its 95% interval where there is one."""

    dice: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RoundFacts:
    """What is known at home of one round; round 0 stands for the untrained model.

    `shared` is the global model that the round made, `trained` what this site trained in it. `loss` are means over
    equal stretches of its `steps`. `measuring_seconds` is what measuring in the round took, before and after training.
    """

    number: int
    state: str = ""
    shared: Point | None = None
    trained: Point | None = None
    loss: tuple[float, ...] = ()
    steps: int = 0
    training_seconds: float = 0.0
    measuring_seconds: float = 0.0


@dataclass(frozen=True)
class Shape:
    """A path of one kind: `line`, `band`, `dots`, `rule` or `bar`; `series` says which of the chart's it belongs to."""

    kind: str
    series: int
    path: str


@dataclass(frozen=True)
class Chart:
    """One chart: shapes, the names of its series, labels from the bottom up, and labels with their place (0 to 1)."""

    title: str
    series: tuple[str, ...]
    shapes: tuple[Shape, ...]
    bottom: str
    top: str
    along: tuple[tuple[float, str], ...]
    along_title: str


def charts(rounds: Sequence[RoundFacts]) -> tuple[Chart, ...]:
    """What can be drawn of a series of rounds: Dice, loss, seconds; nothing of what is not known."""
    drawn = (dice_chart(rounds), loss_chart(rounds), seconds_chart(rounds))
    return tuple(chart for chart in drawn if chart is not None)


def dice_chart(rounds: Sequence[RoundFacts]) -> Chart | None:
    """The mean Dice of the global model after each round, with its interval, and of what this site made of it."""
    own = [one for one in rounds if one.trained]
    shared = [one for one in rounds if one.shared]
    points = [point for one in rounds for point in (one.shared, one.trained) if point]
    if not points:
        return None
    lows = [point.dice if point.low is None else point.low for point in points]
    highs = [point.dice if point.high is None else point.high for point in points]
    low, high = math.floor(10 * min(lows)) / 10, math.ceil(10 * max(highs)) / 10
    high = max(high, low + 0.1)
    first, last = rounds[0].number, rounds[-1].number

    def place(number: int, value: float) -> tuple[float, float]:
        return _across(number, first, last), HEIGHT * (high - value) / (high - low)

    banded = [(one.number, one.shared) for one in shared if one.shared and one.shared.low is not None]
    upper = [place(number, point.high or 0) for number, point in banded]
    lower = [place(number, point.low or 0) for number, point in reversed(banded)]
    lines = [place(one.number, one.shared.dice) for one in shared if one.shared]
    dots = [place(one.number, one.trained.dice) for one in own if one.trained]
    shapes = [
        Shape("band", 0, path_of(upper + lower) + "Z" if banded else ""),
        Shape("line", 0, path_of(lines)),
        Shape("dots", 0, _dots(lines)),
        Shape("dots", 1, _dots(dots)),
    ]
    return Chart(
        "Dice on held-out patients",
        ("global model after the round", "this site's, trained in the round"),
        _drawn(shapes),
        f"{low:.1f}",
        f"{high:.1f}",
        _numbers(first, last),
        "round",
    )


def loss_chart(rounds: Sequence[RoundFacts]) -> Chart | None:
    """The loss of every training, one after the other, by steps."""
    trained = [one for one in rounds if one.loss]
    if not trained:
        return None
    ends = list(accumulate(one.steps for one in trained))
    high = max(value for one in trained for value in one.loss)
    low = min(0.0, *(value for one in trained for value in one.loss))
    shapes = []
    for one, end in zip(trained, ends, strict=True):
        begin, share = end - one.steps, one.steps / len(one.loss)
        across = [WIDTH * (begin + share * (index + 0.5)) / ends[-1] for index in range(len(one.loss))]
        down = [HEIGHT * (high - value) / max(high - low, 1e-9) for value in one.loss]
        points = list(zip(across, down, strict=True))
        shapes += [Shape("line", 0, path_of(points)), Shape("dots", 0, _dots(points) if len(points) == 1 else "")]
        if begin:
            shapes.append(Shape("rule", 0, f"M{WIDTH * begin / ends[-1]:.1f} 0V{HEIGHT}"))
    along = [((end - one.steps / 2) / ends[-1], str(one.number)) for one, end in zip(trained, ends, strict=True)]
    return Chart("Loss in each round", (), _drawn(shapes), f"{low:.3g}", f"{high:.3g}", _thinned(along), "round")


def seconds_chart(rounds: Sequence[RoundFacts]) -> Chart | None:
    """How long each round trained here, and measured."""
    timed = [one for one in rounds if one.training_seconds or one.measuring_seconds]
    if not timed:
        return None
    high = max(one.training_seconds + one.measuring_seconds for one in timed)
    first, last = timed[0].number, timed[-1].number
    side = WIDTH / (last - first + 1)
    shapes = []
    for one in timed:
        left = side * (one.number - first + 0.15)
        trained, measured = (HEIGHT * part / high for part in (one.training_seconds, one.measuring_seconds))
        for series, (down, tall) in enumerate(((HEIGHT - trained, trained), (HEIGHT - trained - measured, measured))):
            shapes.append(
                Shape("bar", series, f"M{left:.1f} {down:.1f}h{0.7 * side:.1f}v{tall:.1f}h{-0.7 * side:.1f}Z")
            )
    along = [((one.number - first + 0.5) * side / WIDTH, str(one.number)) for one in timed]
    title = ("training", "measuring")
    return Chart("Seconds in each round", title, _drawn(shapes), "0", f"{high:.0f} s", _thinned(along), "round")


def histograms(blocks: Sequence[Mapping[str, Any]], noise_deviation: float | None) -> tuple[Chart, ...]:
    """How large each block's values are, by powers of two, and how large the noise is that they meet, where it is one.

    `blocks` are those of `egress.describe`; all have one axis. Heights are shares of the values, zeros have no place.
    """
    noise = noise_by_powers(noise_deviation) if noise_deviation else {}
    ends = [(block["lowest"], block["lowest"] + len(block["counts"]) - 1) for block in blocks if block["counts"]]
    ends += [(min(noise), max(noise))] if noise else []
    low, last = min((one for one, _ in ends), default=0), max((one for _, one in ends), default=0)
    return tuple(_histogram(block, noise, low, last - low + 1) for block in blocks)


def _histogram(block: Mapping[str, Any], noise: Mapping[int, float], low: int, count: int) -> Chart:
    shares = {block["lowest"] + index: count / block["values"] for index, count in enumerate(block["counts"])}
    high = max([*shares.values(), *noise.values()], default=1.0)
    side = WIDTH / count

    def across(exponent: float) -> float:
        return side * (exponent - low)

    bars = "".join(
        f"M{across(exponent) + side / 10:.1f} {HEIGHT}v{-HEIGHT * share / high:.1f}h{0.8 * side:.1f}V{HEIGHT}Z"
        for exponent, share in shares.items()
    )
    line = [(across(exponent + 0.5), HEIGHT * (1 - share / high)) for exponent, share in noise.items()]
    share_of_zeros = round(100 * block["zeros"] / block["values"])
    zeros = f" ({share_of_zeros}% are zero)" if share_of_zeros else ""
    tens = range(math.ceil((low - 1) * math.log10(2)), math.floor((low - 1 + count) * math.log10(2)) + 1)
    along = [(across(power / math.log10(2) + 1) / WIDTH, f"1e{power}") for power in tens]
    return Chart(
        block["name"],
        ("update", "noise") if noise else ("update",),
        _drawn([Shape("bar", 0, bars), Shape("line", 1, path_of(line))]),
        "0",
        f"{100 * high:.0f}%",
        _thinned(along),
        f"size of a value{zeros}",
    )


def noise_by_powers(deviation: float) -> dict[int, float]:
    """How likely normal noise is to be of each power of two: 2^(e-1) <= |v| < 2^e by e, from one in 500 up."""
    top = math.ceil(math.log2(deviation)) + 2  # beyond 4 standard deviations
    within = {exponent: math.erf(2.0**exponent / deviation / math.sqrt(2)) for exponent in range(top - 13, top + 1)}
    shares = {exponent: within[exponent] - within[exponent - 1] for exponent in range(top - 12, top + 1)}
    return {exponent: share for exponent, share in shares.items() if share >= 0.002}


def _across(number: int, first: int, last: int) -> float:
    return WIDTH * (number - first) / (last - first) if last > first else WIDTH / 2


def _numbers(first: int, last: int) -> tuple[tuple[float, str], ...]:
    return _thinned([(_across(number, first, last) / WIDTH, str(number)) for number in range(first, last + 1)])


def _thinned(labels: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Some of the labels, evenly spaced, where there are more than can be read."""
    return tuple(labels[:: max(1, math.ceil(len(labels) / MOST_LABELS))])


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """A line through points of the field; nothing where there are none."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""


def _dots(points: Iterable[tuple[float, float]]) -> str:
    """Lines without length: their round ends are dots, round also where the field is stretched."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)


def _drawn(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    return tuple(shape for shape in shapes if shape.path)
