"""Pages about models and rounds, for this site's people: self-contained HTML without scripts and without network.

They show loss, Dice and pictures of patients by pseudonym, all of which stays at home (privacy.md): they lie below the
state folder, for its user alone, and those with pictures go when a patient is withdrawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsite import __version__
from fedsite.dataset.manifest import CaseRecord
from fedsite.errors import CannotWrite
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, atomic_writer, make_folder
from fedsite.jobs import curves
from fedsite.jobs.evaluations import RoundFacts
from fedsite.site.state import State

if TYPE_CHECKING:
    from fedsite.dataset.pictures import Album, Look
    from fedsite.jobs.evaluate import Evaluation
    from fedsite.training.summary import Detection, Estimate, MeasuredCase

FOLDER = "reports"
EVALUATION, ROUNDS, ATTACKS = "evaluation.html", "rounds.html", "attacks.html"
_MOST_OF_A_KIND = 3
_MOST_RELEASES = 12


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


@dataclass(frozen=True)
class Release:
    """What left in a round, as `egress.describe` says it, with histograms of the whole and of each block."""

    round: int
    facts: Mapping[str, Any]

    @property
    def charts(self) -> tuple[curves.Chart, ...]:
        """With the noise, where it is added to these very values."""
        noised = self.facts["mechanism"] == "gaussian-update"
        deviation = self.facts["noise_standard_deviation"] if noised else None
        return curves.histograms(self.blocks, deviation)

    @property
    def blocks(self) -> tuple[Mapping[str, Any], ...]:
        """The whole update, then block by block."""
        return ({**self.facts, "name": "whole update"}, *self.facts["blocks"])


def place(state: State, name: str) -> Path:
    """Where a page lies. Its folder is made if need be. Raises CannotWrite."""
    make_folder(state.folder / FOLDER, PRIVATE_FOLDER)
    return state.folder / FOLDER / name


def forget_pictures(state: State) -> None:
    """Removes the pages that hold pictures of patients: one of them was withdrawn."""
    for name in (EVALUATION, ATTACKS):
        (state.folder / FOLDER / name).unlink(missing_ok=True)


def write_evaluation(
    path: Path,
    found: "Evaluation",
    records: Mapping[str, CaseRecord],
    album: "Album",
    called: str,
    rounds: Sequence[RoundFacts],
) -> None:
    """The page of a model: what it was measured to be, curves over rounds, and its best, median and worst cases.

    `records` are the manifest's, by case; `called` says which cases these are. Raises CannotWrite.
    """
    chosen = [(kind, case, records[case.id]) for kind, case in choose(found.cases)]
    write(
        path,
        "evaluation.html.j2",
        found=found,
        pictures=(Picture(kind, case, record, album.of(record)) for kind, case, record in chosen),
        called=called,
        cases=sorted(found.cases, key=lambda case: (case.dice, case.id)),
        charts=curves.charts(rounds),
        found_by_size=found_by_size,
    )


def write_rounds(
    path: Path, federation: str, rounds: Sequence[RoundFacts], left: Mapping[int, Mapping[str, Any]]
) -> None:
    """The page of this site's rounds: a table, curves, and what left in the newest of them. Raises CannotWrite.

    `left` is what `egress.kept` gives: by round, what its release is.
    """
    releases = [Release(number, left[number]) for number in sorted(left, reverse=True)[:_MOST_RELEASES]]
    write(
        path,
        "rounds.html.j2",
        federation=federation,
        rounds=rounds,
        charts=curves.charts(rounds),
        releases=releases,
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


def write(path: Path, template: str, **content: Any) -> None:  # noqa: ANN401 - whatever a template is given
    """Writes a page from one of the templates. Raises CannotWrite."""
    if not path.parent.is_dir():
        raise CannotWrite(
            f"Cannot write the report: there is no folder {path.parent}.", "Make it, or name another --report."
        )
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("fedsite.jobs"), PackageLoader("fedsite.dataset")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["estimate"] = _estimate
    page = environment.get_template(template).generate(version=__version__, **content)
    with atomic_writer(path, PRIVATE_FILE) as file:
        for piece in page:
            file.write(piece.encode())


def _estimate(value: "Estimate", digits: int) -> tuple[str, str]:
    """A mean, and its interval where there is one."""
    if value.mean is None:
        return "not defined", ""
    between = "" if value.low is None else f"{value.low:.{digits}f} to {value.high:.{digits}f}"
    return f"{value.mean:.{digits}f}", between
