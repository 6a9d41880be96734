"""What becomes of a round's updates: streaming over files, the same bytes for the same updates, bounded memory.

McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data, in the form that
privacy.md needs: sites send differences, the server adds what it makes of them to the model that they started from.
Momentum, moments and SCAFFOLD's control are made of the same updates, so they cost no privacy and nothing more is sent.

A mean holds one slice of `SLICE` values, whatever the number of sites. A rule by rank must see all sites' values side
by side: its slices are the shorter the more sites there are, so that together they never hold more than `STACK` values.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedsite.wire.algorithms import (
    Stored,
    Values,
    adams_model,
    coordinate_median,
    next_model,
    next_moments,
    next_server_control,
    trimmed_mean,
    within_norm,
)
from fedsite.wire.messages import MalformedMessage
from fedsite.wire.payload import Layout, check_file, chunks, read_values
from fedsite.wire.server_rules import Aggregation, NormBounded, ServerAdam, TrimmedMean, left_out

SLICE = 1 << 18
STACK = 1 << 19
SMALL_SLICE = 1 << 16
"""Where several threads may each look at an update of its own."""


@dataclass(frozen=True)
class Update:
    """One site's update as it lies on disk, and its weight."""

    path: Path
    weight: float


@dataclass(frozen=True)
class Rules:
    """What a plan says of the server's part (`wire.server_rules`). `encoding` is that of the updates."""

    aggregation: Aggregation = "mean"
    momentum: float = 0.0
    adam: ServerAdam | None = None
    encoding: str = "float32"


@dataclass(frozen=True)
class Controls:
    """What SCAFFOLD's server knows before a round's updates: its control's file (None: zero), steps times learning
    rate, and how many sites have taken part in the series before this round and with it.
    """

    path: Path | None
    reach: float
    known_before: int
    known: int


@dataclass(frozen=True)
class Moments:
    """The files of FedAdam's moments, in the model's form."""

    first: Path
    second: Path


@dataclass(frozen=True)
class Start:
    """What a round starts from: files in the form of `layout` (float32).

    `previous` is the model of the round before, for a momentum; None in a series' first round, as `moments` are.
    """

    model: Path
    layout: Layout
    previous: Path | None = None
    moments: Moments | None = None
    controls: Controls | None = None


def following(start: Start, updates: Sequence[Update], rules: Rules) -> Iterator[dict[str, bytes]]:
    """The files that the next round starts from, all at once, piece by piece, each with its header first.

    `model`: the present one and what the rule makes of the updates, in float64 until it is written. With a momentum it
    also goes on as it has moved since `previous` (FedAvgM); under FedAdam it takes Adam's step, and there are `first`
    and `second`, its moments. `control` is there under SCAFFOLD. The same updates give the same bytes, in the order
    in which they are given; under a rule by rank in any order.
    """
    layout, header = start.layout, True
    combined, length = combination(updates, layout.encoded(rules.encoding), rules.aggregation)
    for part in chunks(layout.values, length):
        made = _made(start, rules, part, combined(part), len(updates))
        if header:
            yield dict.fromkeys(made, layout.header)
            header = False
        yield made


def _made(start: Start, rules: Rules, part: slice, update: Values, sites: int) -> dict[str, bytes]:
    """A slice of each file that follows, as it is stored."""
    made = _moved(start, rules, part, update)
    if start.controls:
        made["control"] = _control(start.controls, start.layout, part, update, sites)
    return {name: values.astype(start.layout.dtype).tobytes() for name, values in made.items()}


def _moved(start: Start, rules: Rules, part: slice, update: Values) -> dict[str, Values]:
    """A slice of the next model, and of the moments where there are any."""
    now = read_values(start.model, start.layout, part)
    if rules.adam is None:
        before = read_values(start.previous, start.layout, part) if start.previous else None
        return {"model": next_model(now, update, rules.momentum, before)}
    adam = rules.adam
    present: tuple[Stored | float, Stored | float] = (0.0, adam.tau**2)
    if start.moments:
        files = start.moments.first, start.moments.second
        present = (read_values(files[0], start.layout, part), read_values(files[1], start.layout, part))
    first, second = next_moments(*present, update, adam.beta1, adam.beta2)
    return {"model": adams_model(now, first, second, adam.learning_rate, adam.tau), "first": first, "second": second}


def _control(controls: Controls, layout: Layout, part: slice, mean: Values, sites: int) -> Values:
    """A slice of the server's next control, from the mean of the updates (of equal weight, as SCAFFOLD has them)."""
    present = read_values(controls.path, layout, part) if controls.path else 0.0
    return next_server_control(
        present,
        mean * sites,
        controls.reach,
        taking_part=sites,
        known_before=controls.known_before,
        known=controls.known,
    )


def combination(updates: Sequence[Update], encoded: Layout, rule: Aggregation) -> tuple[Callable[[slice], Values], int]:
    """What a rule makes of the updates at a slice, and how many values a slice may have."""
    if rule == "median" or isinstance(rule, TrimmedMean):
        paths = [update.path for update in updates]
        cut = left_out(len(paths), rule.share) if isinstance(rule, TrimmedMean) else None

        def ranked(part: slice) -> Values:
            ordered = stacked(paths, encoded, part)
            ordered.sort(axis=0)
            return coordinate_median(ordered) if cut is None else trimmed_mean(ordered, cut)

        return ranked, slice_length(len(paths))
    total = math.fsum(update.weight for update in updates)
    if isinstance(rule, NormBounded):
        updates = [
            replace(one, weight=one.weight * within_norm(norm_of(one.path, encoded), rule.bound)) for one in updates
        ]

    def mean(part: slice) -> Values:
        summed = np.zeros(part.stop - part.start, dtype=np.float64)
        for update in updates:
            summed += np.multiply(read_values(update.path, encoded, part), update.weight, dtype=np.float64)
        summed /= total
        return summed

    return mean, SLICE


def slice_length(sites: int) -> int:
    """How many values a slice may have where the updates of so many sites lie side by side."""
    return max(1, min(SLICE, STACK // sites))


def stacked(paths: Sequence[Path], encoded: Layout, part: slice) -> Values:
    """The updates at a slice side by side: shape [sites, values]."""
    stack = np.empty((len(paths), part.stop - part.start))
    for place, path in enumerate(paths):
        stack[place] = read_values(path, encoded, part)
    return stack


def norm_of(path: Path, layout: Layout) -> float:
    """The Euclidean norm of a file's values in float64; NaN when a value is not finite."""
    squares = []
    for part in chunks(layout.values, SMALL_SLICE):
        values = read_values(path, layout, part).astype(np.float64)
        squares.append(float(np.dot(values, values)))
    return math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.nan


def why_unfit(path: Path, layout: Layout, max_norm: float) -> str | None:
    """Why an update cannot be admitted, None when it can: its form, its finiteness, its Euclidean norm."""
    try:
        check_file(path, layout)
    except MalformedMessage as error:
        return f"{error}"
    norm = norm_of(path, layout)
    if not math.isfinite(norm):
        return "a value is not finite"
    if norm > max_norm:
        return f"its norm is above {max_norm:g}, the plan's bound"
    return None
