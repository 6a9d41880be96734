"""When a site takes part: within its hours, and until its agreement ends, by every clock there is.

Three clocks are asked, and the strictest decides: this machine's, this machine's as it stood when the run began plus
the time that has really passed since, and the server's. So a clock that is set back in the middle of a run, or that was
wrong from the start, opens no hour that is closed; nor can the server open one, since it is never asked alone.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo

from fedsite.errors import OutsideHours, PolicyRefused, TryAgainLater
from fedsite.jobs.progress import Progress, Steps
from fedsite.site import hours
from fedsite.site.identity import Pinned
from fedsite.site.policy import Policy

NO_AGREEMENT = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of an empty text
LOOK_EVERY_SECONDS = 1.0
# What a server may say; beyond lies what Python cannot reckon with.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

Clock = Callable[[], datetime]


def now() -> datetime:
    """The present instant."""
    return datetime.now(UTC)


def passed() -> float:
    """Seconds that have really passed, those in which the machine was asleep included; nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Guard:
    """Holds one run to the hours and the agreement of its site, from its first request to its last byte."""

    def __init__(
        self, policy: Policy, pinned: Pinned, clock: Clock = now, elapsed: Callable[[], float] = passed
    ) -> None:
        self._policy, self._pinned, self._clock, self._elapsed = policy, pinned, clock, elapsed
        self._clocks = [clock, self._running_on(clock())]
        self._looked = elapsed()

    @property
    def minds_the_clock(self) -> bool:
        """Whether anything depends on what time it is."""
        return bool(self._policy.hours or self._policy.days or end_of_agreement(self._policy, self._pinned))

    def compare(self, ahead_seconds: float | None) -> None:
        """Goes by the server's clock too, which is so far behind this machine's (None: it told no time)."""
        if ahead_seconds is not None:
            now = self._clock()
            ahead = max(now - LATEST, min(now - EARLIEST, timedelta(seconds=ahead_seconds)))
            self._clocks.append(self._running_on(now - ahead))

    def require(self) -> None:
        """Raises OutsideHours, and what `require_agreement` raises."""
        self._looked = self._elapsed()
        for clock in self._clocks:
            moment = clock()
            require_agreement(self._policy, self._pinned, moment)
            require_hours(self._policy, moment)

    def over(self, step: Steps) -> Steps:
        """The same steps, none of which begins, or goes on for more than a moment, when it must not."""

        @contextmanager
        def watched(description: str) -> Iterator[Progress]:
            self.require()
            with step(description) as progress:

                def told(done: int, total: int, note: str = "") -> None:
                    if self._elapsed() - self._looked >= LOOK_EVERY_SECONDS:
                        self.require()
                    progress(done, total, note)

                yield told

        return watched

    def _running_on(self, moment: datetime) -> Clock:
        """A clock that showed `moment` now, and that nobody can set."""
        began = self._elapsed()
        return lambda: moment + timedelta(seconds=self._elapsed() - began)


def require_hours(policy: Policy, moment: datetime) -> None:
    """Raises OutsideHours unless the moment lies within the hours and days of the policy."""
    here = moment.astimezone(zone(policy))
    if not hours.are_open(policy.hours, policy.days, here):
        raise OutsideHours(
            f"It is {hours.DAYS[here.weekday()]} {here:%H:%M} ({here.tzname()}); this site takes part"
            f" {hours.in_words(policy.hours, policy.days)} (policy.hours, policy.days).",
            "Nothing is lost: the next run within these hours goes on from here.",
        )


def require_agreement(policy: Policy, pinned: Pinned, moment: datetime) -> None:
    """Raises TryAgainLater while the data-use agreement awaits a person's acceptance, PolicyRefused once it ended."""
    if pinned.agreement_sha256 != NO_AGREEMENT and not pinned.agreement_accepted_by:
        raise TryAgainLater(
            "The federation's data-use agreement has not been accepted for this site.",
            "Read and accept it: fedsite enroll --accept-agreement NAME",
        )
    end = end_of_agreement(policy, pinned)
    if end is None or moment < end[0]:
        return
    if end[1] == "policy.agreement_until":
        mend = "If the site wants to go on, its owner changes policy.agreement_until in site.yaml."
    else:
        mend = "Ask the coordinator for a new agreement and a new invitation: fedsite enroll --invitation FILE"
    raise PolicyRefused(f"The time for which this site agreed ended on {end[0]:%Y-%m-%d %H:%M %Z} ({end[1]}).", mend)


def end_of_agreement(policy: Policy, pinned: Pinned) -> tuple[datetime, str] | None:
    """The first instant at which this site takes part no more, and who says so: its policy or the agreement."""
    ends = []
    if policy.agreement_until is not None:
        midnight = datetime.combine(policy.agreement_until, datetime.max.time(), tzinfo=zone(policy))
        ends.append((midnight, "policy.agreement_until"))
    if pinned.agreement_expires:
        ends.append((datetime.fromisoformat(pinned.agreement_expires), "the agreement's end"))
    return min(ends, default=None)


def zone(policy: Policy) -> tzinfo:
    """Where the site's hours, days and dates are."""
    return hours.zone(policy.time_zone)
