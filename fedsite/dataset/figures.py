"""What the report counts over all cases: how they are spread, which stand out, and how to choose among them.

For the eyes of this site alone: nothing of it goes into a case, into training, or out of the house.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from fedsite.dataset.manifest import CaseRecord, Exclusion, Remark

MOST_BARS = 10
# The modified z-score and its bound: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers.
_ENOUGH_LESIONS = 8
_OUTLYING = 3.5
# However alike the others are: what is within a factor of three of the median is no outlier.
_LEAST_SPREAD = 0.35
_EDGES_ML = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_EDGES_DICE = (0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Bar:
    """One kind and how many cases are of it; `share` is against the longest bar, in percent."""

    label: str
    count: int
    share: float


@dataclass(frozen=True)
class Choice:
    """A group of cases that can be shown alone: its key in the page, its name, how many there are."""

    key: str
    label: str
    count: int


@dataclass(frozen=True)
class Reason:
    """Why studies were left out: the rule, one of its messages, its mend, and the studies."""

    remark: Remark
    alike: bool
    studies: tuple[Exclusion, ...]


@dataclass(frozen=True)
class Noted:
    """A case, what of its numbers stands out in words, and the keys of the groups that it belongs to."""

    record: CaseRecord
    notes: tuple[str, ...]
    keys: tuple[str, ...]


def bars(labels: Iterable[str]) -> tuple[Bar, ...]:
    """The commonest kinds, most first; what does not fit is counted together."""
    counts = sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    shown, others = counts[:MOST_BARS], counts[MOST_BARS:]
    if others:
        shown.append((f"{len(others)} others", sum(count for _, count in others)))
    return _scaled(shown)


def volumes(cases: Iterable[CaseRecord]) -> tuple[Bar, ...]:
    """Cases by lesion volume in ml, in steps of about three."""
    return _steps([case.lesion_ml for case in cases if case.lesion_ml > 0], _EDGES_ML)


def ceilings(cases: Iterable[CaseRecord]) -> tuple[Bar, ...]:
    """Cases by the Dice that a perfect model could reach."""
    return _steps([case.dice_ceiling for case in cases if case.dice_ceiling is not None], _EDGES_DICE)


def reasons(excluded: Iterable[Exclusion]) -> tuple[Reason, ...]:
    """The studies that were left out by their reason, the commonest first."""
    groups: dict[str, list[Exclusion]] = {}
    for study in sorted(excluded, key=lambda study: study.id):
        groups.setdefault(study.reason.id, []).append(study)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        Reason(studies[0].reason, len({study.reason.message for study in studies}) == 1, tuple(studies))
        for _, studies in ordered
    )


def noted(cases: Sequence[CaseRecord]) -> list[Noted]:
    """The cases, what needs a look first: warnings, then what stands out, then the smallest lesions."""
    usual = _usual(cases)
    found = [_note(case, usual) for case in cases]
    return sorted(
        found,
        key=lambda one: (-len(one.record.findings), -len(one.notes), one.record.lesion_ml, one.record.id),
    )


def choices(cases: Collection[Noted]) -> tuple[Choice, ...]:
    """The groups that can be shown alone: some that are always worth asking for, and one for each warning."""
    counts = Counter(key for case in cases for key in case.keys)
    fixed = {
        "look": "needs a look",
        "unusual": "unusual volume",
        "none": "no lesion",
        "training": "training",
        "validation": "validation",
    }
    rules = sorted({remark.id for case in cases for remark in case.record.findings})
    offered = fixed | {f"r-{rule}": rule for rule in rules}
    return tuple(Choice(key, label, counts[key]) for key, label in offered.items() if counts[key])


def _note(case: CaseRecord, usual: tuple[float, float] | None) -> Noted:
    notes: list[str] = []
    keys = [case.split, *dict.fromkeys(f"r-{remark.id}" for remark in case.findings)]
    if usual and case.lesion_ml > 0:
        middle, spread = usual
        distance = (math.log(case.lesion_ml) - middle) / spread
        if abs(distance) > _OUTLYING:
            notes.append(f"The lesion is much {'larger' if distance > 0 else 'smaller'} than those of the other cases.")
            keys.append("unusual")
    if not case.lesion_ml:
        keys.append("none")
    if notes or case.findings:
        keys.append("look")
    return Noted(case, tuple(notes), tuple(keys))


def _usual(cases: Iterable[CaseRecord]) -> tuple[float, float] | None:
    """Median and robust standard deviation of the logarithm of lesion volumes; None where there are too few."""
    logs = [math.log(case.lesion_ml) for case in cases if case.lesion_ml > 0]
    if len(logs) < _ENOUGH_LESIONS:
        return None
    middle = median(logs)
    return middle, max(1.4826 * median(abs(value - middle) for value in logs), _LEAST_SPREAD)


def _steps(values: Iterable[float], edges: Sequence[float]) -> tuple[Bar, ...]:
    """How many values lie between each two edges (the lower one included), without the empty ends."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_right(edges, value)] += 1
    filled = [index for index, count in enumerate(counts) if count]
    between = [f"{low:g}\u2013{high:g}" for low, high in pairwise(edges)]
    labels = [f"< {edges[0]:g}", *between, f"\u2265 {edges[-1]:g}"]
    chosen = range(filled[0], filled[-1] + 1) if filled else ()
    return _scaled([(labels[index], counts[index]) for index in chosen])


def _scaled(counts: Sequence[tuple[str, int]]) -> tuple[Bar, ...]:
    most = max((count for _, count in counts), default=1)
    return tuple(Bar(label, count, round(100 * count / most, 1)) for label, count in counts)
