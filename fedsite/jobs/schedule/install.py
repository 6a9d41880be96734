"""`fedsite schedule install, show, remove`: which of systemd and cron, where, and what is there already.

A schedule is found by its state folder, in the four places where one may be. What is installed is told from those
places themselves: nothing is kept beside them that could come to differ.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedsite.errors import ConfigurationError, UsageError
from fedsite.jobs.schedule import presence, reach, run
from fedsite.jobs.schedule.crontab import DropIn, Table
from fedsite.jobs.schedule.place import Place
from fedsite.jobs.schedule.record import name_of
from fedsite.jobs.schedule.run import Run, Scope, Way
from fedsite.jobs.schedule.systemd import Units
from fedsite.jobs.schedule.times import Schedule, elsewhere, next_start
from fedsite.jobs.site import Warn, unheard
from fedsite.site import config as configuration
from fedsite.site import hours
from fedsite.site.config import SiteConfig
from fedsite.site.hours import Hours

LATER = "What is installed waits for it."


@dataclass(frozen=True)
class Asked:
    """What an operator asks for: minutes between starts; None of way and scope: what runs here decides."""

    every: int
    windows: tuple[Hours, ...] = ()
    weekends: bool = False
    way: Way | None = None
    scope: Scope | None = None


@dataclass(frozen=True)
class Installed:
    """A schedule as it is found; its `schedule` is None where it was changed by hand.

    `next_run` is None where nothing will start it, or nobody can tell when; it may be late by `jitter_seconds`.
    """

    way: Way
    scope: Scope
    where: str
    schedule: Schedule | None
    runs: bool
    next_run: datetime | None

    @property
    def jitter_seconds(self) -> int:
        """By how much a start may be late."""
        return self.schedule.jitter_seconds if self.schedule else 0


@dataclass(frozen=True)
class Done:
    """What `install` has done: `installed`, `replaced` or `unchanged`; why there."""

    outcome: str
    installed: Installed
    reason: str


def install(config_path: Path | None, asked: Asked, warn: Warn = unheard) -> Done:
    """Installs a site's schedule in one place, and takes it out of the others.

    Raises ConfigurationError, also where what was installed could not work; UsageError where no start would lie within
    the policy's hours; CannotWrite.
    """
    path, config = _read(config_path)
    schedule = Schedule.of(config.policy, asked.every, asked.windows, asked.weekends)
    _require_open(schedule, config, warn)
    wanted = run.of(path, config, schedule)
    place, reason = _choose(asked, wanted)
    if place.scope == "system":
        reach.require(place.way, wanted, path, config)
    others = [one for one in _places() if (one.way, one.scope) != (place.way, place.scope) and one.find(wanted.name)]
    _require_own(others, wanted.name)
    known = place.find(wanted.name) is not None
    if place.holds(wanted) and not others:
        return Done("unchanged", _installed(place, wanted.name), reason)
    place.install(wanted)
    for other in others:  # the new one is there before the old one goes: two do no harm, they share a lock
        other.remove(wanted.name)
    _warn(place, wanted, config, warn)
    return Done("replaced" if known or others else "installed", _installed(place, wanted.name), reason)


def find(state: Path) -> list[Installed]:
    """Every schedule of a state folder that this user can see; one is as it should be."""
    name = name_of(state)
    return [_installed(place, name) for place in _places() if place.find(name)]


def show(config_path: Path | None) -> list[Installed]:
    """The same for a configuration. Raises ConfigurationError."""
    return find(_read(config_path)[1].paths.state)


def remove(config_path: Path | None) -> list[str]:
    """Removes every schedule of a configuration; gives where they were.

    Raises CannotWrite, and ConfigurationError where one of them is root's to remove.
    """
    name = name_of(_read(config_path)[1].paths.state)
    found = [place for place in _places() if place.find(name)]
    _require_own(found, name)
    for place in found:
        place.remove(name)
    return [place.where(name) for place in found]


def next_run(state: Path) -> datetime | None:
    """When a state folder's site takes part next, by itself; None where it does not, or nobody can tell."""
    return min((one.next_run for one in find(state) if one.next_run), default=None)


def _read(config_path: Path | None) -> tuple[Path, SiteConfig]:
    return configuration.find(config_path).absolute(), configuration.load(config_path)


def _places() -> list[Place]:
    return [Units("system"), Units("user"), DropIn(), Table()]


def _installed(place: Place, name: str) -> Installed:
    found = place.find(name)
    schedule, runs = found.schedule if found else None, place.runs(name)
    start = _next(place.way, schedule) if schedule and runs else None
    return Installed(place.way, place.scope, place.where(name), schedule, runs, start)


def _next(way: Way, schedule: Schedule) -> datetime:
    now, zone = datetime.now(UTC), schedule.place
    if way == "systemd":
        return next_start(schedule.starts, zone, now)
    machine = hours.zone(None)
    return next_start(elsewhere(schedule.starts, zone, machine, now), machine, now)


def _choose(asked: Asked, wanted: Run) -> tuple[Place, str]:
    """The place, and why. Raises ConfigurationError where nothing will do."""
    scope: Scope = asked.scope or ("system" if os.geteuid() == 0 else "user")
    if scope == "system" and os.geteuid() != 0:
        raise ConfigurationError("Only root can install a schedule of the system.", "Use sudo, or --user.")
    if wanted.credentials:
        if asked.way == "cron" or scope == "user":
            raise ConfigurationError(
                f"This site needs {', '.join(wanted.credentials)}, which only a service of the system's is given.",
                "As root: fedsite schedule install --with systemd --system. Or: fedsite identity renew --key-storage"
                " file",
            )
        return Units("system"), f"only systemd gives {wanted.user} {' and '.join(wanted.credentials)}"
    if asked.way:
        if (asked.way, scope) == ("systemd", "user") and presence.BOOTED.is_dir() and not presence.systemd_runs(scope):
            raise ConfigurationError(
                f"No service manager of {wanted.user}'s runs here.",
                f"loginctl enable-linger {wanted.user}; then run the command again. Or use --with cron.",
            )
        return _place(asked.way, scope), "as asked for"
    if presence.systemd_runs(scope):
        if scope == "user" and presence.lingers(wanted.user) is False and presence.cron_runs():
            return Table(), "cron runs here, and systemd would only while this user is logged in"
        return Units(scope), "systemd runs here"
    if presence.cron_is_here():
        return _place("cron", scope), "no systemd runs here"
    raise ConfigurationError(
        "Neither does systemd run here, nor is cron installed.",
        "Install cron; or write units for a systemd to come: --with systemd",
    )


def _require_own(places: list[Place], name: str) -> None:
    """Raises ConfigurationError where a schedule is root's to take away, before anything is changed."""
    for place in places:
        if place.scope == "system" and os.geteuid() != 0:
            raise ConfigurationError(
                f"Root has scheduled this site: {place.where(name)}.", "Leave it; or as root: fedsite schedule remove"
            )


def _place(way: Way, scope: Scope) -> Place:
    if way == "systemd":
        return Units(scope)
    return DropIn() if scope == "system" else Table()


def _require_open(schedule: Schedule, config: SiteConfig, warn: Warn) -> None:
    open_starts = schedule.within(config.policy)
    when = hours.in_words(config.policy.hours, config.policy.days)
    if not open_starts:
        raise UsageError(
            f"No start of this schedule would lie within this site's hours: {when} (policy.hours, policy.days).",
            "Without --window and --weekends those hours are the schedule's, too.",
        )
    if closed := len(schedule.starts) - len(open_starts):
        warn(f"{closed} of {len(schedule.starts)} starts a week lie outside of policy.hours ({when}), and do nothing.")


def _warn(
    place: Place, wanted: Run, config: SiteConfig, warn: Warn, environment: Mapping[str, str] = os.environ
) -> None:
    """What may keep an installed schedule from running, or from doing what it does here."""
    if place.way == "cron" and not presence.cron_runs():
        warn(f"cron does not run on this machine at present. {LATER}")
    if place.way == "systemd" and not presence.systemd_runs(place.scope):
        warn(f"systemd does not run on this machine at present. {LATER}")
    if place.way == "systemd" and place.scope == "user":
        lingering = presence.lingers(wanted.user)
        if lingering is None:
            warn("Whether this user's timers run without a login could not be told (loginctl).")
        elif not lingering:
            warn(f"Timers of {wanted.user} only run while somebody is logged in: loginctl enable-linger {wanted.user}")
    from fedsite.jobs.network import VARIABLES  # brings httpx, which whoever only looks does not need

    named = [name for name in VARIABLES if environment.get(name)]
    if named and config.network.proxy is None:
        warn(f"${named[0]} is not known to {place.way}: set network.proxy in site.yaml.")
