"""One participation that nobody watches: its round between the site's hooks, its end written down, told and counted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fedsite import __version__
from fedsite.errors import FedsiteError
from fedsite.files import is_private
from fedsite.jobs.progress import Steps
from fedsite.jobs.round import participate
from fedsite.jobs.round.participate import Outcome
from fedsite.jobs.site import Site, Warn, open_loaded
from fedsite.jobs.unattended import endings, hooks, notify, run_log, streaks
from fedsite.jobs.unattended.endings import Ending
from fedsite.jobs.unattended.notices import Notice
from fedsite.jobs.unattended.notify import Delivery
from fedsite.jobs.unattended.streaks import Streak
from fedsite.site import config as configuration
from fedsite.site import identity
from fedsite.site.config import SiteConfig
from fedsite.site.identity import IdentityFiles
from fedsite.site.state import State

LONGEST_MESSAGE = 1000  # some of it may be the server's


def take_part(
    config_path: Path | None, step: Steps, warn: Warn, *, devices: str = "", wait_seconds: float = 0
) -> Outcome:
    """One participation, from the configuration to the last word about it. Raises every error of cli.md's table.

    An error that ends it comes with a note where the runs before ended in the same way: how often, and since when.
    """
    config = configuration.load(config_path)
    run = _Run(config, warn)
    try:
        with open_loaded(config, warn) as site:
            site = site.on_devices(devices) if devices else site
            outcome = participate.take_part(site, step, wait_seconds=wait_seconds, around=partial(run.around, site))
    except BaseException as error:
        streak = run.ended(endings.of_error(error))
        if streak and isinstance(error, FedsiteError) and not error.expected:
            error.data = {**error.data, "since": streak.since, "times": streak.times}
            if streak.times > 1:
                error.add_note(streak.how_often)
        raise
    run.ended(Ending(outcome.outcome), outcome.data.get("round"))
    return outcome


def rehearse(
    config_path: Path | None, step: Steps, warn: Warn, *, devices: str = "", wait_seconds: float = 0
) -> Outcome:
    """The same as a dry run, which a person has typed: between the hooks too, but nothing of it is told or written."""
    with open_loaded(configuration.load(config_path), warn) as site:
        site = site.on_devices(devices) if devices else site
        return participate.take_part(
            site, step, dry_run=True, wait_seconds=wait_seconds, around=partial(hooks.around, site)
        )


class _Run:
    """The run under way; `_round` is None until one begins."""

    def __init__(self, config: SiteConfig, warn: Warn) -> None:
        self._config, self._warn, self._began = config, warn, time.monotonic()
        self._state = config.paths.state
        self._round: int | None = None
        self._told: list[Delivery] = []

    @contextmanager
    def around(self, site: Site, number: int) -> Iterator[None]:
        """A round between its hooks; that it begins is told."""
        self._round = number
        with hooks.around(site, number):
            begins = replace(self._notice(), event="start")
            self._tell(begins, aloud="start" in self._config.notifications.events)
            yield

    def ended(self, ending: Ending, number: int | None = None) -> Streak | None:
        """Tells, counts and writes down how the run ended; gives what has gone wrong run after run. Raises nothing."""
        self._round = self._round or number
        now = datetime.now(UTC)
        before = streaks.load(self._state)
        streak = streaks.after(before, ending, now)
        stopped = self._round is not None and ending.outcome != "interrupted"  # whose beginning was told
        if stopped or not ending.expected:
            streak = self._tell_end(ending, before, streak, now)
        if self._is_ours():
            self._keep(lambda: streaks.save(self._state, streak))
            self._keep(lambda: run_log.write(self._state, self._entry(ending, streak, now)))
        return streak

    def _tell_end(self, ending: Ending, before: Streak | None, streak: Streak | None, now: datetime) -> Streak | None:
        notice = self._notice().ended(ending, streak)
        aloud = not ending.expected and notice.event in self._config.notifications.events
        aloud &= streak.wants_telling(now) if streak else ending.outcome == "uploaded"
        heard = self._tell(notice, aloud=aloud)
        if before and before.told and streak is None:
            self._tell(notice.mended(before), aloud=True)
        return replace(streak, told=now.isoformat(timespec="seconds")) if streak and heard else streak

    def _tell(self, notice: Notice, *, aloud: bool) -> bool:
        """Sends a notice, and warns of what was not delivered; whether a webhook or a mailbox has taken it."""
        made = notify.tell(self._config.notifications, self._config.network, notice, aloud=aloud)
        self._told += made
        for one in made:
            if one.problem:
                self._warn(f"The {one.way} about this run was not delivered: {one.problem}")
        self._audit(notice, made)
        return any(one.way != "ping" and not one.problem for one in made)

    def _audit(self, notice: Notice, made: Sequence[Delivery]) -> None:
        """What has left: to whom, site.yaml says. Where the records are what went wrong, the log alone knows."""
        if made:
            with suppress(FedsiteError), State.open(self._state) as state:
                notify.write_down(state, notice, made)

    def _notice(self) -> Notice:
        """Who is speaking. A site that is not enrolled has no name yet."""
        try:
            pinned = identity.pinned(IdentityFiles(self._state / "identity"))
        except (FedsiteError, OSError):
            return Notice("start", round=self._round)
        return Notice("start", pinned.site, pinned.federation, self._round)

    def _entry(self, ending: Ending, streak: Streak | None, now: datetime) -> dict[str, object]:
        facts = {**asdict(ending), "message": ending.message[:LONGEST_MESSAGE]}
        counted = streak if streak and streak.code == ending.code else None
        return {
            "time": now.isoformat(timespec="seconds"),
            "run": "train-round",
            "fedsite": __version__,
            "round": self._round,
            **{name: facts[name] for name in ("outcome", "exit_code", "code", "message", "mend")},
            "seconds": round(time.monotonic() - self._began, 1),
            "since": counted.since if counted else None,
            "times": counted.times if counted else 0,
            "told": {one.way: one.problem or "delivered" for one in self._told},
        }

    def _is_ours(self) -> bool:
        """Whether there is a state folder, and it is this user's: nobody leaves files in that of another."""
        try:
            return is_private(self._state.resolve())
        except OSError:
            return False

    def _keep(self, write: Callable[[], None]) -> None:
        """Writes something about the run; where that fails, people hear of it, and the run is what it was."""
        try:
            write()
        except FedsiteError as error:
            self._warn(error.message)
        except OSError as error:
            self._warn(f"The log of runs cannot be written: {error.strerror}.")
