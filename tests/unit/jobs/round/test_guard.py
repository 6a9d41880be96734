"""A run is held to hours and agreement by every clock there is; the strictest decides."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from fedsite.errors import OutsideHours, PolicyRefused, TryAgainLater
from fedsite.jobs.round import guard
from fedsite.jobs.round.guard import Guard
from fedsite.site.identity import Pinned
from fedsite.site.policy import Policy

PINNED = Pinned("https://server", "north", "strokes", ("0" * 64,), 1, "a" * 64, agreement_accepted_by="Ada")
NIGHT = Policy(hours=["20:00-06:00"], time_zone="Europe/Zurich")
MIDNIGHT = datetime(2026, 6, 1, 22, tzinfo=UTC)  # in Zurich
NOON = MIDNIGHT - timedelta(hours=12)


class Machine:
    """A clock that can be set, and one that cannot."""

    def __init__(self, shows: datetime) -> None:
        self.shows, self.seconds = shows, 0.0

    def clock(self) -> datetime:
        return self.shows

    def elapsed(self) -> float:
        return self.seconds

    def passes(self, **time: float) -> None:
        self.shows += timedelta(**time)
        self.seconds += timedelta(**time).total_seconds()

    def guard(self, policy: Policy = NIGHT, pinned: Pinned = PINNED) -> Guard:
        return Guard(policy, pinned, self.clock, self.elapsed)


def test_within_the_hours_and_not_outside() -> None:
    Machine(MIDNIGHT).guard().require()
    with pytest.raises(OutsideHours, match=r"It is mon 12:00 \(CEST\); this site takes part 20:00-06:00") as closed:
        Machine(NOON).guard().require()
    assert closed.value.exit_code == 75
    assert "policy.hours" in closed.value.message


def test_hours_that_end_end_the_run() -> None:
    machine = Machine(MIDNIGHT)
    held = machine.guard()
    machine.passes(hours=5, minutes=59)
    held.require()
    machine.passes(minutes=1)
    with pytest.raises(OutsideHours):
        held.require()


@pytest.mark.fault(
    part="time",
    what="the clock is set back in the middle of a run",
    where="between two steps of a round",
    promised="hours that are over stay over: the deadline is monotonic",
)
@pytest.mark.parametrize("back", [timedelta(hours=3), timedelta(days=7)])
def test_a_clock_that_is_set_back_in_the_middle_opens_nothing(back: timedelta) -> None:
    machine = Machine(MIDNIGHT)
    held = machine.guard()
    machine.passes(hours=6)
    machine.shows -= back
    with pytest.raises(OutsideHours):
        held.require()


@pytest.mark.fault(
    part="time",
    what="the clock is set forward in the middle of a run",
    where="between two steps of a round",
    promised="what may not run at that hour stops",
)
def test_a_clock_that_is_set_forward_closes_at_once() -> None:
    machine = Machine(MIDNIGHT)
    held = machine.guard()
    machine.shows += timedelta(hours=7)
    with pytest.raises(OutsideHours):
        held.require()


@pytest.mark.parametrize("ahead", [timedelta(hours=12), -timedelta(hours=12), timedelta(days=3650, hours=12)])
def test_the_servers_clock_counts_too(ahead: timedelta) -> None:
    """This machine's clock is wrong by half a day: by its own it is night."""
    held = Machine(MIDNIGHT).guard()
    held.require()
    held.compare(ahead.total_seconds())
    with pytest.raises(OutsideHours):
        held.require()


def test_the_server_cannot_open_what_is_closed() -> None:
    held = Machine(NOON).guard()
    held.compare(timedelta(hours=12).total_seconds())
    with pytest.raises(OutsideHours):
        held.require()


@pytest.mark.parametrize("told", [None, 0.0, 90.0, -90.0])
def test_a_clock_that_is_about_right_changes_nothing(told: float | None) -> None:
    held = Machine(MIDNIGHT).guard()
    held.compare(told)
    held.require()


@pytest.mark.parametrize("said", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_no_date_of_the_server_breaks_the_site(said: datetime) -> None:
    machine = Machine(MIDNIGHT)
    held = machine.guard(Policy())
    held.compare((machine.clock() - said).total_seconds())
    held.require()


def test_the_zone_of_the_machine_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(MIDNIGHT)
    held = machine.guard(Policy(hours=["20:00-06:00"]))
    monkeypatch.setattr(guard.hours, "zone", lambda _name: UTC)
    held.require()
    monkeypatch.setattr(guard.hours, "zone", lambda _name: guard.hours._named("Asia/Tokyo"))
    with pytest.raises(OutsideHours, match="07:00"):
        held.require()


# --- the agreement --------------------------------------------------------------------------------------------------


def ending(instant: str) -> Pinned:
    return Pinned("https://server", "north", "strokes", ("0" * 64,), 1, "a" * 64, "Ada", "", instant)


def until(*last_day: int) -> Policy:
    return Policy(time_zone="UTC", agreement_until=date(*last_day))


@pytest.mark.parametrize(
    ("policy", "pinned", "end"),
    [
        (Policy(), PINNED, None),
        (Policy(), ending("2026-06-01T22:00:00+00:00"), "2026-06-01T22:00:00+00:00"),
        (Policy(time_zone="Europe/Zurich", agreement_until=date(2026, 6, 1)), PINNED, "2026-06-01T22:00:00+00:00"),
        (until(2026, 6, 1), PINNED, "2026-06-02T00:00:00+00:00"),
        (until(2026, 6, 1), ending("2026-05-01T00:00:00Z"), "2026-05-01T00:00:00+00:00"),
        (until(2026, 4, 1), ending("2026-05-01T00:00:00Z"), "2026-04-02T00:00:00+00:00"),
        (until(9999, 12, 31), PINNED, "never"),
    ],
)
def test_the_earlier_end_counts(policy: Policy, pinned: Pinned, end: str | None) -> None:
    if end is None or end == "never":
        Machine(datetime(9000, 1, 1, tzinfo=UTC)).guard(policy, pinned).require()
        return
    first = datetime.fromisoformat(end)
    Machine(first - timedelta(seconds=1)).guard(policy, pinned).require()
    with pytest.raises(PolicyRefused, match="The time for which this site agreed ended") as over:
        Machine(first).guard(policy, pinned).require()
    assert over.value.exit_code == 80


def test_a_clock_that_is_set_back_prolongs_no_agreement() -> None:
    machine = Machine(MIDNIGHT)
    held = machine.guard(Policy(), ending((MIDNIGHT + timedelta(hours=1)).isoformat()))
    held.require()
    held.compare(-7200.0)
    with pytest.raises(PolicyRefused):
        held.require()


def test_what_nobody_has_accepted_awaits_a_person() -> None:
    unsigned = Pinned("https://server", "north", "strokes", ("0" * 64,), 1, "a" * 64)
    with pytest.raises(TryAgainLater, match="has not been accepted"):
        Machine(MIDNIGHT).guard(Policy(), unsigned).require()
    nothing_to_accept = Pinned("https://server", "north", "strokes", ("0" * 64,), 1, guard.NO_AGREEMENT)
    Machine(MIDNIGHT).guard(Policy(), nothing_to_accept).require()


@pytest.mark.parametrize(
    ("policy", "pinned", "minds"),
    [
        (Policy(), PINNED, False),
        (NIGHT, PINNED, True),
        (Policy(days=["sat"]), PINNED, True),
        (Policy(agreement_until=date.max), PINNED, True),
        (Policy(), ending("2026-06-01T22:00:00Z"), True),
    ],
)
def test_only_who_minds_the_clock_asks_the_server_for_its_own(policy: Policy, pinned: Pinned, minds: bool) -> None:
    assert Machine(MIDNIGHT).guard(policy, pinned).minds_the_clock is minds


# --- steps ----------------------------------------------------------------------------------------------------------


class Watched:
    """Steps that a test watches."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @contextmanager
    def __call__(self, description: str) -> Iterator[Any]:
        self.seen.append(description)
        yield lambda done, total, note="": self.seen.append((done, total, note))
        self.seen.append("done")


def test_a_step_goes_on_no_longer_than_it_may() -> None:
    machine, watched = Machine(MIDNIGHT), Watched()
    step = machine.guard().over(watched)
    with step("Training") as progress:
        progress(1, 3, "loss 1")
        machine.passes(hours=5)
        progress(2, 3)
    with step("Uploading") as progress:
        progress(1, 3)
        machine.passes(hours=1)
        with pytest.raises(OutsideHours):
            progress(2, 3)
    assert watched.seen == ["Training", (1, 3, "loss 1"), (2, 3, ""), "done", "Uploading", (1, 3, ""), "done"]


def test_no_step_begins_outside_the_hours() -> None:
    machine, watched = Machine(MIDNIGHT), Watched()
    step = machine.guard().over(watched)
    machine.passes(hours=6)
    with pytest.raises(OutsideHours), step("Uploading"):
        pass
    assert watched.seen == []


def test_the_clock_is_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, asked = Machine(MIDNIGHT), []
    monkeypatch.setattr(guard, "require_hours", lambda policy, moment: asked.append(moment))
    with machine.guard().over(Watched())("Training") as progress:
        asked.clear()
        for done in range(100):
            machine.passes(seconds=0.1)
            progress(done, 100)
    assert len(asked) in (18, 20), "two clocks, about ten times in ten seconds"
