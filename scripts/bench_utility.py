"""What a federation is worth: Dice at four hospitals that train, and at a fifth that nobody has seen.

Compared are each site by itself, all data in one place, and federations by several recipes; every site takes the same
number of steps in each. Hospitals are made up (utility/sites.py says how they differ). There is no server and no noise;
all else is what sites and server run (utility/federation.py).

With --private: what dp-sgd costs, on the demo's hospitals with more patients at a lower resolution.

Recipes are chosen on a validation split. Only then is the test split opened, for all of them. Whatever is finished is
kept in the cache folder: a run that was cut goes on. Dice is measured on the prepared grid of 4 mm.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench_rows import report
from rich.console import Console
from utility import private
from utility.patients import Split
from utility.recipes import ALONE, FEDERATED, Recipe
from utility.results import Results, choose, rows, table
from utility.sites import TRAINED
from utility.work import Scores, Sizes, Training, Work

SEEDS = (7, 8, 9)  # those before were spent on other hospitals (utility/sites.py)
QUICK = Sizes(training=2, validation=1, test=2, coarser=2.0)
QUICK_STEPS = 4
LEARNING: tuple[Split, ...] = ("training", "validation")

Made = TypeVar("Made")

console = Console(highlight=False, width=150)


def main() -> int:
    """The command line. The exit code is 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, few patients and steps; ends within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keeps what is finished (default: a temporary folder)"
    )
    parser.add_argument("--seeds", metavar="N,N", default=",".join(map(str, SEEDS)), help="default: %(default)s")
    parser.add_argument(
        "--recipes", metavar="TEXT,TEXT", default="", help="only federations with one of these in their name"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: the machine's cores)"
    )
    parser.add_argument(
        "--private", action="store_true", help="instead: what dp-sgd costs in Dice at two epsilons (utility/private.py)"
    )
    parser.add_argument("--validate", action="store_true", help="stops before the test split: for trying recipes")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    federated = [recipe for recipe in FEDERATED if any(text in recipe.name for text in options.recipes.split(","))]
    if not federated:
        parser.error("no recipe has this in its name")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.cache or Path(temporary)
        if options.private:
            return run_private(folder, seeds, options)
        if options.quick:
            alone, federated = ([one.shorter(QUICK_STEPS) for one in some] for some in (ALONE, federated))
            trainings = all_trainings(alone, federated, seeds[:1])
            return run(Work(folder, QUICK), trainings, options)
        return run(Work(folder, Sizes()), all_trainings(ALONE, federated, seeds), options)


def all_trainings(alone: Sequence[Recipe], federated: Sequence[Recipe], seeds: Sequence[int]) -> list[Training]:
    """Everything that is trained."""
    return [
        training
        for seed in seeds
        for training in (
            *(Training("lone", recipe, seed, hospital.name) for hospital in TRAINED for recipe in alone),
            *(Training("central", recipe.of_patches(len(TRAINED)), seed) for recipe in alone),
            *(Training("federated", recipe, seed) for recipe in federated),
        )
    ]


def run(work: Work, trainings: Sequence[Training], options: argparse.Namespace) -> int:
    """What a federation is worth."""
    validation, test = measured(work, trainings, options)
    chosen = choose(validation)
    console.print(f"Chosen on the validation split: {'; '.join(chosen.everyone)}")
    console.print(table(test or validation, chosen))
    return report(rows(test, chosen, with_targets=not options.quick), options.json) if test else 0


def run_private(folder: Path, seeds: Sequence[int], options: argparse.Namespace) -> int:
    """What privacy costs."""
    sizes = private.QUICK_SIZES if options.quick else private.SIZES
    work = Work(folder, sizes, private.HOSPITALS, private.HOSPITALS)
    some, steps = (seeds[:1], QUICK_STEPS) if options.quick else (seeds, private.STEPS)
    validation, test = measured(work, private.all_trainings(some, sizes.training, steps), options)
    return report(private.rows(validation, test or validation), options.json)


def measured(work: Work, trainings: Sequence[Training], options: argparse.Namespace) -> tuple[Results, Results | None]:
    """Everything in its order: training cases, trainings with their validation, and at the end, if at all, the test."""
    seeds = sorted({training.seed for training in trainings})
    with _processes(options.workers) as pool:
        wanted = [(hospital, split, seed) for seed in seeds for hospital in work.trained for split in LEARNING]
        _all(pool, "cases to learn from", [partial(work.cases, *one) for one in wanted])
        validation = _scores(pool, "trained and validated", trainings, partial(Training.validated, work=work))
        if options.validate:
            return validation, None
        wanted = [(hospital, "test", seed) for seed in seeds for hospital in work.hospitals]
        _all(pool, "cases to be tested on", [partial(work.cases, *one) for one in wanted])
        return validation, _scores(pool, "tested", trainings, partial(Training.tested, work=work))


def _scores(pool: Executor, what: str, trainings: Sequence[Training], measure: Callable[[Training], Scores]) -> Results:
    return Results(dict(zip(trainings, _all(pool, what, [partial(measure, one) for one in trainings]), strict=True)))


def _all(pool: Executor, what: str, jobs: Sequence[Callable[[], Made]]) -> list[Made]:
    """Does all of it, and says how far it is. What one job raises ends the run."""
    started = time.monotonic()
    futures = [pool.submit(job) for job in jobs]
    for number, future in enumerate(as_completed(futures), 1):
        future.result()
        console.print(f"{what}: {number} of {len(jobs)}, {time.monotonic() - started:.0f} s")
    return [future.result() for future in futures]


def _processes(count: int) -> ProcessPoolExecutor:
    """Fresh processes, each with one thread: what they are given is one training at a time."""
    os.environ["OMP_NUM_THREADS"] = "1"
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


if __name__ == "__main__":
    sys.exit(main())
