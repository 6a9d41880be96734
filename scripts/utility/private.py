"""What privacy costs in Dice: the demo's three hospitals with some hundred patients each, at a low resolution.

Compared are all data in one place, a federation without noise, and federations under dp-sgd at two epsilons: those of
each patient, over the whole run, by the filter that a site's ledger goes by. All of them take the same number of steps.

Learning rates and the clip norm are chosen on the validation split. As everywhere in the field that search is not in
epsilon: who searches on patients of their own should know it.
"""

from collections.abc import Sequence
from dataclasses import replace

from bench_rows import Row, compare
from hospitals.cohorts import ORDINARY
from hospitals.scanners import SCANNERS

from fedsite.privacy import accountant
from utility.recipes import Privacy, Recipe
from utility.results import Results
from utility.sites import Hospital
from utility.statistics import estimate, mean
from utility.work import Sizes, Training

HOSPITALS = tuple(Hospital(scanner.name, scanner, ORDINARY) for scanner in SCANNERS[:3])
NAMES = tuple(hospital.name for hospital in HOSPITALS)
SIZES = Sizes(training=200, validation=20, test=40, spacing_mm=8.0, coarser=2.0)
QUICK_SIZES = replace(SIZES, training=4, validation=1, test=2, coarser=3.0)
EPSILONS, DELTA = (8.0, 2.0), 1e-5
STEPS, ROUNDS, BATCH_SHARE = 120, 12, 0.25
CLIP_NORM = 0.1
LEARNING_RATES = (0.5, 1.5, 4.5)
"""Times the clip norm: the longest way that the weights go in a step, before momentum."""
OPEN_RATES, OPEN_PATCHES = (0.1, 0.3), 50
"""Without privacy: as many patches in a step as dp-sgd has patients, on average."""

SMALL = Recipe(
    "small",
    rounds=ROUNDS,
    steps=STEPS,
    server_momentum=0.5,
    channels=(4, 8, 16),
    patch=(24, 24, 24),
)


def privacy(epsilon: float, patients: int, steps: int) -> Privacy:
    """dp-sgd with the least noise that so many steps are worth `epsilon` with."""
    batch = max(1, round(BATCH_SHARE * patients))
    order = accountant.best_order(epsilon, DELTA)

    def affordable(noise: float) -> bool:
        release = accountant.release_of("dp-sgd", noise, batch / patients, steps)
        return accountant.filter_epsilon(accountant.renyi(release, order), order, DELTA) <= epsilon

    noise = accountant.least_noise(affordable)
    assert noise is not None, "some noise is enough"
    return Privacy(CLIP_NORM, noise, batch, patients)


def all_trainings(seeds: Sequence[int], patients: int, steps: int = STEPS) -> list[Training]:
    """Everything that is trained."""
    small = SMALL.shorter(steps)
    plain = [
        replace(small, name=f"without noise, learning rate {rate:g}", batch_size=OPEN_PATCHES, learning_rate=rate)
        for rate in OPEN_RATES
    ]
    private = [
        replace(
            small,
            name=f"epsilon {epsilon:g}, learning rate {rate:g}",
            privacy=privacy(epsilon, patients, steps),
            learning_rate=rate,
        )
        for epsilon in EPSILONS
        for rate in LEARNING_RATES
    ]
    central = [replace(recipe.of_patches(len(HOSPITALS)), rounds=1, server_momentum=0.0) for recipe in plain]
    return [
        training
        for seed in seeds
        for training in (
            *(Training("central", recipe, seed) for recipe in central),
            *(Training("federated", recipe, seed) for recipe in (*plain, *private)),
        )
    ]


def rows(validation: Results, test: Results) -> list[Row]:
    """How everything that was trained does on the test split; what validation chose is marked. Nothing is asked."""
    contenders = list(dict.fromkeys(training.contender for training in test.scores))
    chosen = _chosen(validation)
    reference = max(mean(test.patients(one, NAMES)) for one in chosen if one.startswith("federated, without noise"))
    return [
        compare(
            ("* " if contender in chosen else "  ") + f"{contender} {_noise(test, contender)}",
            mean(test.patients(contender, NAMES)),
            "Dice",
            f"without noise {reference:.3f}; {estimate(test.patients(contender, NAMES))}",
            reference,
        )
        for contender in contenders
    ]


def _chosen(validation: Results) -> set[str]:
    """The best of each epsilon on the validation split, and what has no rival."""
    groups: dict[object, list[str]] = {}
    for training in validation.scores:
        groups.setdefault((training.kind, training.recipe.name.split(",")[0]), []).append(training.contender)
    return {
        max(contenders, key=lambda contender: mean(validation.patients(contender, NAMES)))
        for contenders in groups.values()
    }


def _noise(results: Results, contender: str) -> str:
    asked = next(training.recipe.privacy for training in results.scores if training.contender == contender)
    return f"(sigma {asked.noise_multiplier:g}, C {asked.clip_norm:g}, q {asked.sampling_rate:g})" if asked else ""
