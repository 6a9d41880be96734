"""The screen: which of a round's updates are conspicuous among the others, before anything is made of them.

Three things are measured of each update, in one pass over the files: its norm; its cosine to the coordinate median of
the others; the share of its values that are outliers, by the modified z-score (Iglewicz and Hoaglin 1993) over sites.
The others' median holds nothing of the update itself, and is theirs as long as fewer than half of them are poisoned.
The median of two others is their mean, which either of them can turn: so among three each is compared with both others,
and what counts is the one that it agrees with better.

Noise hides directions. An update is a signal of norm at most C and noise of standard deviation r C on each of its d
values, whose norm is about r C sqrt(d). If all signals were as long as clipping allows and pointed the same way, the
cosine of an update to the median of n - 1 others would be

    1 / sqrt((1 + r^2 d) (1 + (pi/2) r^2 d / (n - 1)))

since the median of normal values has at most pi/2 times the variance of their mean, reached with many (Serfling 1980,
section 2.3.3). Two directions that have nothing to do with each other have a cosine of standard deviation 1/sqrt(d)
(Cai, Fan and Jiang 2013). Where the first is below six of the second, an update that points exactly the other way
cannot be told from an honest one, so the cosine is uninformative: robust rules and noise do not add up (Guerraoui et
al. 2021). Norm and outliers still tell who sends something of another size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsite.server.rounds.aggregation import slice_length, stacked
from fedsite.wire.algorithms import Values, coordinate_median
from fedsite.wire.payload import Layout, chunks
from fedsite.wire.plans import DpSgd, PlanDraft
from fedsite.wire.server_rules import FEWEST, Screen

OUTLIER = 3.5
NORMAL_MAD = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation
MEDIAN_VARIANCE = math.pi / 2
CERTAIN = 3.0  # standard deviations

Verdict = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What the screen sees of one update; no cosine where an update, or all others together, are zero."""

    norm: float
    cosine: float | None
    outliers: float


def examine(updates: Mapping[str, Path], encoded: Layout, plan: PlanDraft, rules: Screen) -> Verdict:
    """What the screen says of the updates by site, in words and numbers that JSON can hold.

    `findings` has the conspicuous sites and why; `cosine` says whether cosines have been judged, and why not.
    """
    found, moved = measure(list(updates.values()), encoded)
    measured = dict(zip(updates, found, strict=True))
    uninformative = why_uninformative(plan, moved, len(measured))
    typical = float(np.median([one.norm for one in measured.values()]))
    too_few = _too_few(len(measured))
    lowest = rules.least_cosine - CERTAIN / math.sqrt(moved or 1) if uninformative is None else -math.inf
    reasons = {site: _conspicuous(one, typical, lowest, rules) for site, one in measured.items()}
    return {
        "rule": rules.rule,
        "updates": {site: vars(one) for site, one in measured.items()},
        "median_norm": typical,
        "cosine": "informative" if uninformative is None else f"uninformative: {uninformative}",
        "others": "informative" if too_few is None else f"uninformative: {too_few}",
        "findings": {site: why for site, why in reasons.items() if why and too_few is None},
    }


def conspicuous(verdict: Verdict) -> list[str]:
    """The sites whose updates stand out."""
    return list(verdict["findings"])


def measure(paths: Sequence[Path], encoded: Layout) -> tuple[list[Measured], int]:
    """Norm, cosine and outliers of each update, in float64; and how many values move: frozen ones are zero everywhere,
    and have no direction. Memory: three times what a rule by rank needs.
    """
    sites, moved = len(paths), 0
    squares, outliers = np.zeros(sites), np.zeros(sites, np.int64)
    dots, others = np.zeros((2, sites)), np.zeros((2, sites))
    for part in chunks(encoded.values, slice_length(sites)):
        stack = stacked(paths, encoded, part)
        ordered = _in_order(stack)
        moved += int(np.count_nonzero((ordered[0] != 0) | (ordered[-1] != 0)))
        without = _medians_without_one(ordered)
        for place, own in enumerate(stack):
            squares[place] += float(own @ own)
            for which, other in enumerate(_compared_with(place, stack, without)):
                dots[which, place] += float(own @ other)
                others[which, place] += float(other @ other)
        stack -= coordinate_median(ordered)
        outliers += _outlying(np.abs(stack, out=stack))
    lengths = np.sqrt(squares) * np.sqrt(others)
    cosines = np.divide(dots, lengths, out=np.full_like(dots, -np.inf), where=lengths > 0).max(axis=0)
    found = [
        Measured(math.sqrt(square), float(cosine) if cosine > -np.inf else None, int(count) / encoded.values)
        for square, cosine, count in zip(squares, cosines, outliers, strict=True)
    ]
    return found, moved


def why_uninformative(plan: PlanDraft, values: int, sites: int) -> str | None:
    """Why cosines tell nothing in a round of so many updates, in each of which so many values move under this plan;
    None when they tell something.
    """
    if too_few := _too_few(sites):
        return too_few
    if not values:
        return "the updates hold nothing but zeros"
    ratio, chance = noise_ratio(plan), 1 / math.sqrt(values)
    largest = expected_cosine(ratio, values, sites)
    if largest >= 2 * CERTAIN * chance:
        return None
    return (
        f"the noise has {ratio * math.sqrt(values):.3g} times the norm of the largest signal, so that even of updates"
        f" that all agree the cosine is about {largest:.2g}, where chance alone makes {CERTAIN * chance:.2g}"
    )


def outlook(plan: PlanDraft, values: int) -> str | None:
    """In a sentence, what a plan's screen will be able to judge; None without one, or where only updates will tell."""
    if plan.screen is None or plan.local.train != "all":
        return None
    reason = why_uninformative(plan, values, plan.rounds.enough or plan.rounds.quorum)
    judged = "norms, cosines and outliers are judged" if reason is None else f"cosines are not judged: {reason}"
    return f"screen ({plan.screen.rule}): {judged}"


def noise_ratio(plan: PlanDraft) -> float:
    """r: the standard deviation of the noise on a value of an update over the norm of the largest signal in it.

    sigma where the update is noised once. Under dp-sgd the signals of T steps add up, at most C over the patients of a
    step each, and their noises as a walk at random does: sigma / (patients sqrt(T)).
    """
    asked = plan.privacy
    if isinstance(asked, DpSgd):
        return asked.noise_multiplier / (asked.batch_patients * math.sqrt(plan.local.steps))
    return asked.noise_multiplier


def expected_cosine(ratio: float, values: int, sites: int) -> float:
    """The largest cosine that an honest update can be expected to have to the coordinate median of the others; of three
    updates, to one other.
    """
    spread = ratio**2 * values
    others = spread if sites == FEWEST else MEDIAN_VARIANCE * spread / (sites - 1)
    return 1 / math.sqrt((1 + spread) * (1 + others))


def _too_few(sites: int) -> str | None:
    return None if sites >= FEWEST else f"it takes {FEWEST} updates or more, there are {sites}"


def _in_order(stack: Values) -> Values:
    """Each value's column over the sites, sorted; twice as fast where a column lies in one piece."""
    columns = np.ascontiguousarray(stack.T)
    columns.sort(axis=1)
    return columns.T


def _compared_with(place: int, stack: Values, median_without: Callable[[Values], Values]) -> list[Values]:
    """The median of the others; of two others, each of them."""
    if len(stack) == FEWEST:
        return [other for number, other in enumerate(stack) if number != place]
    return [median_without(stack[place])]


def _medians_without_one(ordered: Values) -> Callable[[Values], Values]:
    """From all sites' values in order: what gives the coordinate median of all but one, zero where there is no other.

    Without a value, those after it move up by one place: of two neighbours in the middle it is the lower for a value
    that lies above that, and else the higher. (Where the number of the others is even, the mean of two such choices.)
    The choice is a multiplication: NumPy's `where` takes four times as long.
    """
    rest = len(ordered) - 1
    median, room = np.zeros((2, ordered.shape[1]))
    places = sorted({(rest - 1) // 2, rest // 2}) if rest else []
    choices = [(ordered[place].copy(), (ordered[place] - ordered[place + 1]) / len(places)) for place in places]
    higher = sum((ordered[place + 1] / len(places) for place in places), np.zeros_like(median))

    def without(own: Values) -> Values:
        median[:] = higher
        for lower, difference in choices:
            np.greater(own, lower, out=room)
            np.multiply(room, difference, out=room)
            np.add(median, room, out=median)
        return median

    return without


def _outlying(distances: Values) -> NDArray[np.int64]:
    """How many values of each site lie far from the median; `distances` are those from it."""
    far = coordinate_median(_in_order(distances)) * (OUTLIER * NORMAL_MAD)
    counts: NDArray[np.int64] = np.count_nonzero(distances > far, axis=1)
    return counts


def _conspicuous(one: Measured, typical: float, lowest: float, rules: Screen) -> list[str]:
    """Why an update stands out; empty when it does not."""
    found = []
    if one.norm > rules.largest_norm * typical:
        found.append(f"its norm is {one.norm:.3g}, the median of all {typical:.3g}")
    if one.cosine is not None and one.cosine < lowest:
        found.append(f"its cosine to the median of the others is {one.cosine:.3f}")
    if one.outliers > rules.most_outliers:
        found.append(f"{one.outliers:.0%} of its values are outliers")
    return found
