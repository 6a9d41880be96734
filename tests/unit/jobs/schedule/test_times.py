"""When runs start: windows over midnight and weekends, clocks that are changed, other time zones."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsite.jobs.schedule.times import DAY, WEEK, Rule, Schedule, elsewhere, next_start, rules
from fedsite.site import hours
from fedsite.site.policy import Policy

ZURICH, NEW_YORK = ZoneInfo("Europe/Zurich"), ZoneInfo("America/New_York")
NIGHT = ("20:00-06:00",)


@pytest.mark.parametrize(
    ("schedule", "cron", "words"),
    [
        (Schedule(360), ["00 00,06,12,18 * * *"], "every 6 h"),
        (Schedule(360, NIGHT), ["00 02,20 * * *"], "every 6 h, 20:00-06:00"),
        (Schedule(360, weekends=True), ["00 00,06,12,18 * * 6,0"], "every 6 h, all weekend"),
        (
            Schedule(360, NIGHT, weekends=True),
            ["00 02,20 * * *", "00 08,14 * * 6,0"],
            "every 6 h, 20:00-06:00 and all weekend",
        ),
        (Schedule(1440, NIGHT), ["00 20 * * *"], "every 24 h, 20:00-06:00"),
        (Schedule(360, NIGHT, ("fri",)), ["00 00,20 * * 5"], "every 6 h, 20:00-06:00 on fri"),
        (Schedule(60, ("23:30-00:30",)), ["30 23 * * *"], "every 1 h, 23:30-00:30"),
        (Schedule(90, ("00:00-03:30",)), ["00 00,03 * * *", "30 01 * * *"], "every 90 min, 00:00-03:30"),
        (Schedule(1), ["* * * * *"], "every 1 min"),
    ],
)
def test_starts_as_cron_says_them(schedule: Schedule, cron: list[str], words: str) -> None:
    assert sorted(rule.cron for rule in rules(schedule.starts)) == sorted(cron)
    assert schedule.in_words() == words


def test_systemd_is_told_the_zone_too() -> None:
    (rule,) = rules(Schedule(360, weekends=True).starts)
    assert rule.calendar("Europe/Zurich") == "Sat,Sun *-*-* 00,06,12,18:00:00 Europe/Zurich"
    assert rules([0])[0].calendar("") == "Mon *-*-* 00:00:00"


clocks = st.integers(0, DAY - 1).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
windows = st.tuples(clocks, clocks).filter(lambda two: two[0] != two[1]).map("-".join)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, DAY),
    st.lists(windows, max_size=3),
    st.lists(st.sampled_from(hours.DAYS), max_size=3, unique=True),
    st.booleans(),
)
def test_every_start_is_open_and_every_stretch_begins_with_one(
    every: int, spans: list[str], days: list[hours.Day], weekends: bool
) -> None:
    schedule = Schedule(every, tuple(spans), tuple(days), weekends)
    starts = set(schedule.starts)
    monday = datetime(2026, 6, 1)

    def is_open(minute: int) -> bool:
        moment = monday + timedelta(minutes=minute)
        weekend = weekends and moment.weekday() > 4
        return weekend or (bool(spans or days or not weekends) and hours.are_open(spans, days, moment))

    open_at = [is_open(minute) for minute in range(WEEK)]
    assert starts
    assert all(open_at[start] for start in starts)
    assert {minute for minute in range(WEEK) if open_at[minute] and not open_at[minute - 1]} <= starts
    assert _said(rules(starts)) == starts
    late = -(-schedule.jitter_seconds // 60)
    assert all(open_at[(start + minutes) % WEEK] for start in starts for minutes in range(late))


def _said(found: list[Rule]) -> set[int]:
    return {
        day * DAY + hour * 60 + minute
        for rule in found
        for day in rule.days
        for hour in rule.hours
        for minute in rule.minutes
    }


@pytest.mark.parametrize(
    ("now", "start"),
    [
        ("2026-03-28T18:00+01:00", "2026-03-28T20:00+01:00"),
        ("2026-03-28T20:00+01:00", "2026-03-29T03:30+02:00"),  # there is no 02:30 in this night
        ("2026-10-24T23:00+02:00", "2026-10-25T02:30+02:00"),  # and in this one there are two
        ("2026-10-25T02:30+02:00", "2026-10-25T20:00+01:00"),
    ],
)
def test_the_next_start_when_clocks_are_changed(now: str, start: str) -> None:
    starts = [day * DAY + minute for day in range(7) for minute in (20 * 60, 2 * 60 + 30)]
    found = next_start(starts, ZURICH, datetime.fromisoformat(now))
    assert found.isoformat(timespec="minutes") == start


def test_the_next_start_may_be_a_week_away() -> None:
    assert next_start([0], UTC, datetime(2026, 11, 23, tzinfo=UTC)) == datetime(2026, 11, 30, tzinfo=UTC)


def test_by_a_clock_in_another_zone() -> None:
    """The two change their clocks on other days: for two weeks the same instant is an hour off, so both stand there."""
    starts, now = Schedule(1440, NIGHT).starts, datetime(2026, 11, 21, tzinfo=UTC)
    assert elsewhere(starts, ZURICH, ZURICH, now) == starts
    there = elsewhere(starts, ZURICH, NEW_YORK, now)
    assert sorted({start % DAY // 60 for start in there}) == [14, 15]
    for day in range(365):  # each start there is among them, whatever the time of the year
        here = datetime(2027, 1, 1, 20, tzinfo=ZURICH) + timedelta(days=day)
        away = here.astimezone(NEW_YORK)
        assert away.weekday() * DAY + away.hour * 60 in there
    assert 20 * 60 not in elsewhere([20 * 60], ZURICH, UTC, now), "Monday 20:00 is earlier elsewhere"
    assert elsewhere([30], ZURICH, UTC, now) == (WEEK - 90, WEEK - 30), "and half past midnight is still Sunday"


def test_without_a_window_the_policys_hours_are_the_schedules() -> None:
    policy = Policy(hours=["19:00-05:00"], days=["sat", "sun"], time_zone="Europe/Zurich")
    assert Schedule.of(policy, 60, (), weekends=False) == Schedule(
        60, ("19:00-05:00",), ("sat", "sun"), zone="Europe/Zurich"
    )
    asked = Schedule.of(policy, 360, NIGHT, weekends=False)
    assert asked == Schedule(360, NIGHT, zone="Europe/Zurich")
    assert [start // DAY for start in asked.within(policy)] == [5, 5, 6, 6]
    assert Schedule(360, ("08:00-17:00",)).within(policy) == []


@pytest.mark.parametrize(
    ("policy", "windows", "weekends", "made_up"),
    [
        (Policy(), (), False, True),
        (Policy(), ("20:00-06:00",), False, False),
        (Policy(), (), True, False),
        (Policy(hours=["20:00-06:00"]), (), False, True),
        (Policy(hours=["20:00-06:00"]), ("20:00-06:00",), False, True),
        (Policy(hours=["20:00-06:00"]), ("22:00-04:00",), False, False),
        (Policy(hours=["20:00-06:00"], days=["mon"]), ("19:00-07:00",), False, True),
    ],
)
def test_a_missed_start_is_made_up_for_where_the_policy_says_when(
    policy: Policy, windows: tuple[str, ...], weekends: bool, made_up: bool
) -> None:
    assert Schedule.of(policy, 360, windows, weekends).may_be_made_up(policy) is made_up
