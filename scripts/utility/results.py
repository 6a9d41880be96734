"""From Dice of patients to what is claimed: the choice of recipes, the table of everything, the rows with targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from bench_rows import Row, reach
from numpy.typing import NDArray
from rich.table import Table

from utility.sites import HOSPITALS, TRAINED, UNSEEN
from utility.statistics import estimate, mean, paired
from utility.work import Scores, Training

OWN_DICE, TO_CENTRAL, OVER_LONE_UNSEEN = 0.75, 0.05, 0.10
"""Dice of a lone site on its own scanner; how far a federation may lie below central, must lie above a lone site."""
SMALLEST = 1e-9

FOUR = tuple(hospital.name for hospital in TRAINED)
ALL = tuple(hospital.name for hospital in HOSPITALS)

Patients = dict[tuple[int, str], NDArray[np.float64]]
"""Each patient's Dice, by seed and hospital."""


@dataclass(frozen=True)
class Results:
    """The Dice of each training's patients in one split."""

    scores: dict[Training, Scores]

    @property
    def seeds(self) -> list[int]:
        """Those that were trained with."""
        return sorted({training.seed for training in self.scores})

    def contenders(self, kind: str, site: str = "") -> list[str]:
        """What was trained of a kind, whatever the seed, in order."""
        found = [training for training in self.scores if training.kind == kind and site in ("", training.site)]
        return list(dict.fromkeys(training.contender for training in found))

    def patients(self, contender: str, hospitals: Sequence[str], seeds: Sequence[int] = ()) -> Patients:
        """The Dice of a contender's patients at these hospitals."""
        return {
            (training.seed, hospital): np.array(scores[hospital])
            for training, scores in self.scores.items()
            for hospital in hospitals
            if training.contender == contender and (not seeds or training.seed in seeds)
        }


@dataclass(frozen=True)
class Chosen:
    """What goes into the test with targets: a contender for each lone site, for all data, for the federation."""

    lone: dict[str, str]
    central: str
    federated: str

    @property
    def everyone(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.lone.values(), self.central, self.federated)


def choose(validation: Results) -> Chosen:
    """The best on the validation split: a lone site looks at its own patients only, the others at all four sites'."""

    def best(contenders: Sequence[str], hospitals: Sequence[str]) -> str:
        return max(contenders, key=lambda contender: mean(validation.patients(contender, hospitals)))

    return Chosen(
        lone={site: best(validation.contenders("lone", site), [site]) for site in FOUR},
        central=best(validation.contenders("central"), FOUR),
        federated=best(validation.contenders("federated"), FOUR),
    )


def table(results: Results, chosen: Chosen) -> Table:
    """Everything that was trained: mean Dice at each hospital, and at the four together with its 95% interval."""
    hospitals = [name for name in ALL if all(name in scores for scores in results.scores.values())]
    shown = Table("", *hospitals, "the four (95%)", *(["unseen (95%)"] if UNSEEN.name in hospitals else []), box=None)
    for kind in ("lone", "central", "federated"):
        for contender in results.contenders(kind):
            means = [f"{mean(results.patients(contender, [hospital])):.3f}" for hospital in hospitals]
            groups = [FOUR, (UNSEEN.name,)] if UNSEEN.name in hospitals else [FOUR]
            spans = [str(estimate(results.patients(contender, group))) for group in groups]
            shown.add_row(("* " if contender in chosen.everyone else "  ") + contender, *means, *spans)
    return shown


def rows(test: Results, chosen: Chosen, *, with_targets: bool) -> list[Row]:
    """What must be shown; then the same comparisons by seed, and for each recipe that was not chosen."""
    others = [contender for contender in test.contenders("federated") if contender != chosen.federated]
    must = [_own(test, contender, site) for site, contender in chosen.lone.items()]
    must += _comparisons(test, chosen, chosen.federated, test.seeds)
    seeds = test.seeds if len(test.seeds) > 1 else []
    by_seed = [row for seed in seeds for row in _comparisons(test, chosen, chosen.federated, [seed])]
    other = [row for contender in others for row in _comparisons(test, chosen, contender, test.seeds)]
    shown = [replace(row, target=None, holds=None) for row in by_seed + other]
    return must + shown if with_targets else [replace(row, target=None, holds=None) for row in must] + shown


def _own(test: Results, contender: str, site: str) -> Row:
    """A lone site on its own scanner."""
    value = mean(test.patients(contender, [site]))
    return reach(f"{contender}, own scanner", value, "Dice", f"{OWN_DICE:g} asked", OWN_DICE)


def _comparisons(test: Results, chosen: Chosen, contender: str, seeds: Sequence[int]) -> list[Row]:
    """A federation against all data in one place, and against the best lone site: at the four hospitals, and unseen."""
    name = contender if len(seeds) == len(test.seeds) else f"{contender}, seed {seeds[0]}"
    four, unseen = (test.patients(contender, group, seeds) for group in (FOUR, (UNSEEN.name,)))
    central = mean(test.patients(chosen.central, FOUR, seeds))
    lone, lone_unseen = (best_lone(test, chosen, group, seeds) for group in (FOUR, (UNSEEN.name,)))
    gain, gain_unseen = estimate(paired(four, lone)), estimate(paired(unseen, lone_unseen))
    bound = mean(lone) + gain.low
    return [
        reach(f"{name}: the four", mean(four), "Dice", f"central {central:.3f} less 5 points", central - TO_CENTRAL),
        Row(
            what=f"{name}: the four, less the best lone, lower bound",
            value=round(gain.low, 4),
            unit="Dice",
            against=f"best lone {mean(lone):.3f}, gain {gain}",
            ratio=round(mean(lone) / max(bound, SMALLEST), 3),
            target=1.0,
            holds=gain.low > 0,
        ),
        reach(
            f"{name}: unseen",
            mean(unseen),
            "Dice",
            f"best lone {mean(lone_unseen):.3f} and 10 points; gain {gain_unseen}",
            mean(lone_unseen) + OVER_LONE_UNSEEN,
        ),
    ]


def best_lone(test: Results, chosen: Chosen, hospitals: Sequence[str], seeds: Sequence[int]) -> Patients:
    """The patients' Dice by the lone site that is best at these hospitals: one site, whatever the seed.

    It is picked on the very patients that it is then compared on: in its favour, and against the federation.
    """
    return max((test.patients(contender, hospitals, seeds) for contender in chosen.lone.values()), key=mean)
