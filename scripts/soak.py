"""A federation that runs for long while everything goes wrong: what it takes, and whether everything is accounted for.

A real server, sites by the installed command, TLS, and faults drawn from a seed: sites and server are killed at any
moment, lines break, runs start twice, sites fall silent for rounds. In the end server and sites say the same of every
round and every charge, nothing is left over, and the server's memory has stayed. Exit code 1 where any of it fails.

    scripts/soak            50 rounds of 16 sites, as fast as they go
    scripts/soak --year     a year of 400 scheduled runs of each of two sites, in made-up time (needs libfaketime)
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bench_rows import report
from endurance import clock, stories
from endurance.chance import Chance
from endurance.coordinator import MODEL_BYTES, Coordinator, Stuck
from endurance.verdict import Verdict, after_the_end, judge, judge_renewals
from endurance.world import World
from rich.console import Console
from support.federation import Server, make

from fedsite.privacy import accountant

ROUNDS, SITES = 50, 16
TURNS, SITES_OF_A_YEAR, YEAR_DAYS = 400, 2, 365.0
PLAN_DAYS = 75.0
EPSILON, DELTA = 8.0, 1e-6
SERVER_ENDS, SERVER_ENDS_IN_A_YEAR = 0.3, 0.06
LONGEST_SLEEP, LONGEST_SLEEP_IN_A_YEAR = 5, timedelta(days=10)
BUDGET_ENDS_AFTER = 0.7
"""Of the scheduled runs of a year: what the second site's budget pays for."""


@dataclass(frozen=True)
class Settings:
    """How long, how many, and which faults. `turns`: rounds, or scheduled runs."""

    turns: int
    sites: int
    seed: int
    days: float = YEAR_DAYS


def main() -> int:
    """The command line."""
    options = _options()
    if options.year and not clock.is_made_up():
        return clock.again_by_made_up_time([sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # nothing of it may outlive it
    console, began = Console(width=120, highlight=False), time.monotonic()
    default = (TURNS, SITES_OF_A_YEAR) if options.year else (ROUNDS, SITES)
    settings = Settings(options.rounds or default[0], options.sites or default[1], options.seed, options.days)
    what = "scheduled runs of each" if options.year else "rounds"
    console.print(f"{settings.sites} sites, {settings.turns} {what}, seed {settings.seed}.")
    try:
        with tempfile.TemporaryDirectory(prefix="fedsite-soak-") as folder:
            found = (a_year if options.year else a_soak)(settings, Path(folder))
    except Stuck as error:
        console.print(f"It does not go on: {error}", style="red", markup=False)
        return 1
    for wrong in found.wrong:
        console.print(wrong, style="red", markup=False)
    found.figure("in all", time.monotonic() - began, "s")
    return report(found.rows, options.json)


def a_soak(settings: Settings, folder: Path) -> Verdict:
    """Rounds one after the other, as fast as they go."""
    quorum, enough = max(1, settings.sites // 2), settings.sites - settings.sites // 8
    rules = {"quorum": quorum, "enough": enough, "deadline_seconds": 86_400}
    plan = _plan(rules, 2 * settings.turns)
    with _federation(folder, {}) as world:
        for name in _names(settings):
            world.join(name, folder / "sites" / name, EPSILON)
        coordinator = Coordinator(world.server, folder, plan, PLAN_DAYS)
        chance = Chance(settings.seed, MODEL_BYTES, SERVER_ENDS, LONGEST_SLEEP)
        found = judge(world, coordinator, stories.soak(world, coordinator, chance, settings.turns), over_budget=())
    after_the_end(found, folder, world.scratch)
    return found


def a_year(settings: Settings, folder: Path) -> Verdict:
    """Scheduled runs in made-up time: certificates and plans come to their ends, and so does one site's budget."""
    now, every = clock.Clock(), timedelta(days=settings.days / settings.turns)
    rules = {"quorum": 1, "enough": settings.sites, "deadline_seconds": int(2.2 * every.total_seconds())}
    plan, names = _plan(rules, int(BUDGET_ENDS_AFTER * settings.turns)), _names(settings)
    with _federation(folder, now.variables) as world:
        for name in names:
            world.join(name, folder / "sites" / name, EPSILON if name in names[1:2] else 10 * EPSILON)
        coordinator = Coordinator(world.server, folder, plan, PLAN_DAYS)
        chance = Chance(settings.seed, MODEL_BYTES, SERVER_ENDS_IN_A_YEAR, LONGEST_SLEEP_IN_A_YEAR // every)
        told = stories.year(world, coordinator, chance, now, settings.turns, every)
        found = judge(world, coordinator, told, over_budget=names[1:2])
        judge_renewals(found, world, told, settings.days)
    after_the_end(found, folder, world.scratch)
    return found


def _federation(folder: Path, variables: Mapping[str, str]) -> World:
    """A federation without sites; all of its processes find `variables` in their environment."""
    scratch = folder / "tmp"
    scratch.mkdir()
    make(folder / "server").database.close()
    server = Server(folder / "server", variables=variables)
    server.start()
    return World(server, variables, scratch)


def _names(settings: Settings) -> list[str]:
    return [f"site-{number + 1:02}" for number in range(settings.sites)]


def _plan(rules: dict[str, int], rounds: int) -> dict[str, object]:
    """The sections of a plan under which a budget of EPSILON pays for so many rounds."""
    privacy = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": _noise(rounds)}
    return {"rounds": rules, "privacy": privacy, "local": {"steps": 0, "patch_voxels": [16, 16, 16]}}


def _noise(rounds: int) -> float:
    """The noise for which a budget of EPSILON pays so many rounds, and hardly more."""
    order = accountant.best_order(EPSILON, DELTA)
    most = accountant.filter_divergence(EPSILON, order, DELTA)
    least = accountant.least_noise(
        lambda noise: rounds * accountant.renyi(accountant.gaussian_update(noise), order) <= most
    )
    assert least is not None
    return float(f"{1.005 * least:.4g}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--year", action="store_true", help="a year in made-up time")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds ({ROUNDS}), or scheduled runs ({TURNS})")
    parser.add_argument("--sites", type=int, metavar="N", help=f"sites ({SITES}, in a year {SITES_OF_A_YEAR})")
    parser.add_argument("--days", type=float, default=YEAR_DAYS, metavar="D", help="of the year (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="which faults (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
