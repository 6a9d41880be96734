"""The page of a model that was measured at home: curves over rounds, and its best, median and worst cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsite.dataset.manifest import CaseRecord
from fedsite.jobs.models.evaluations import Evaluation
from fedsite.jobs.pages import curves, writing
from fedsite.jobs.pages.curves import RoundFacts

if TYPE_CHECKING:
    from fedsite.dataset.pictures import Album, Look
    from fedsite.training.summary import Detection, MeasuredCase

_MOST_OF_A_KIND = 3


@dataclass(frozen=True)
class Picture:
    """A case that is shown, and why: one of the worst, of the middle, or of the best."""

    kind: str
    case: "MeasuredCase"
    record: CaseRecord
    look: "Look"


@dataclass(frozen=True)
class Share:
    """One bar: what it is of, its length in percent, and what it says."""

    label: str
    share: float
    count: str


def write(
    path: Path,
    found: Evaluation,
    records: Mapping[str, CaseRecord],
    album: "Album",
    called: str,
    rounds: Sequence[RoundFacts],
) -> None:
    """The page of a model: what it was measured to be, curves over rounds, and its best, median and worst cases.

    `records` are the manifest's, by case; `called` says which cases these are. Raises CannotWrite.
    """
    chosen = [(kind, case, records[case.id]) for kind, case in choose(found.cases)]
    writing.write(
        path,
        "evaluation.html.j2",
        found=found,
        pictures=(Picture(kind, case, record, album.of(record)) for kind, case, record in chosen),
        called=called,
        cases=sorted(found.cases, key=lambda case: (case.dice, case.id)),
        charts=curves.charts(rounds),
        found_by_size=found_by_size,
    )


def choose(cases: Sequence["MeasuredCase"]) -> list[tuple[str, "MeasuredCase"]]:
    """The cases that are shown, by Dice from the worst up: up to three of each kind, none of them twice."""
    ordered = sorted(cases, key=lambda case: (case.dice, case.id))
    count, size = len(ordered), min(_MOST_OF_A_KIND, max(1, len(ordered) // 3))
    middle = (count - size + 1) // 2
    kinds = dict.fromkeys(range(middle, middle + size), "median")
    kinds |= dict.fromkeys(range(count - size, count), "best") | dict.fromkeys(range(size), "worst")
    return [(kinds[index], ordered[index]) for index in sorted(kinds)]


def found_by_size(found: Sequence["Detection"]) -> tuple[Share, ...]:
    """Bars of the lesions that were found, by their size."""
    return tuple(Share(one.group, 100 * one.found / one.lesions, f"{one.found} of {one.lesions}") for one in found)
