"""Hours and days of a site: half-open, across midnight, in a zone that no environment variable chooses."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from fedsite.site import hours
from fedsite.site.policy import Policy

ZURICH = ZoneInfo("Europe/Zurich")
MONDAY = datetime(2026, 6, 1, tzinfo=ZURICH)


def at(clock: str, day: int = 0) -> datetime:
    """A time of the week that begins on MONDAY."""
    hour, minute, second = (int(part) for part in f"{clock}:0:0".split(":")[:3])
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute, seconds=second)


@pytest.mark.parametrize(
    ("given", "clock", "expected"),
    [
        ([], "12:00", True),
        (["20:00-06:00"], "19:59:59", False),
        (["20:00-06:00"], "20:00", True),
        (["20:00-06:00"], "23:59:59", True),
        (["20:00-06:00"], "00:00", True),
        (["20:00-06:00"], "05:59:59", True),
        (["20:00-06:00"], "06:00", False),
        (["20:00-24:00"], "23:59:59", True),
        (["20:00-24:00"], "00:00", False),
        (["00:00-24:00"], "00:00", True),
        (["20:00-00:00"], "00:00", False),
        (["12:00-13:00", "20:00-06:00"], "12:59", True),
        (["12:00-13:00", "20:00-06:00"], "13:00", False),
    ],
)
def test_an_hour_ends_before_its_last_minute(given: list[str], clock: str, expected: bool) -> None:
    assert hours.are_open(given, [], at(clock)) is expected


@pytest.mark.parametrize(("day", "clock", "expected"), [
    (3, "23:59", False), (4, "00:00", True), (4, "05:59", True), (4, "06:00", False), (4, "20:00", True),
    (4, "23:59", True), (5, "00:00", False), (5, "05:59", False),
])  # fmt: skip
def test_a_new_day_begins_at_midnight(day: int, clock: str, expected: bool) -> None:
    """Hours that go on after midnight end there, where the next day is none of the days: the stricter reading."""
    assert hours.are_open(["20:00-06:00"], ["fri"], at(clock, day)) is expected


def test_days_alone() -> None:
    found = [hours.are_open([], ["sat", "sun"], at("12:00", day)) for day in range(7)]
    assert found == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    ("zone", "instant", "expected"),
    [
        # 25 October 2026: at 3:00 the clocks of Zurich go back to 2:00.
        ("Europe/Zurich", "2026-10-25T00:59:59Z", True),
        ("Europe/Zurich", "2026-10-25T01:00:00Z", True),
        ("Europe/Zurich", "2026-10-25T01:59:59Z", True),
        ("Europe/Zurich", "2026-10-25T02:00:00Z", False),
        # 29 March 2026: at 2:00 they go to 3:00.
        ("Europe/Zurich", "2026-03-29T00:59:59Z", False),
        ("Europe/Zurich", "2026-03-29T01:00:00Z", False),
        ("Asia/Tokyo", "2026-10-24T17:30:00Z", True),
        ("UTC", "2026-10-25T02:30:00Z", True),
    ],
)
def test_summer_time_moves_the_clock_and_not_the_hours(zone: str, instant: str, expected: bool) -> None:
    moment = datetime.fromisoformat(instant).astimezone(hours.zone(zone))
    assert hours.are_open(["02:00-03:00"], [], moment) is expected


def test_the_machines_zone_is_the_machines_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path("/usr/share/zoneinfo/Europe/Zurich")
    if not there.is_file():
        pytest.skip("this machine has no tz database in /usr/share/zoneinfo")
    (tmp_path / "localtime").write_bytes(there.read_bytes())
    monkeypatch.setattr(hours, "MACHINES_ZONE", tmp_path / "localtime")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        moment = datetime(2026, 6, 1, 12, tzinfo=UTC)
        assert moment.astimezone().hour == 2, "the variable is at work"
        assert moment.astimezone(hours.zone(None)).hour == 14
        assert moment.astimezone(hours.zone("Asia/Tokyo")).hour == 21
    finally:
        os.environ.pop("TZ")
        time.tzset()


def test_a_machine_without_a_zone_is_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hours, "MACHINES_ZONE", tmp_path / "absent")
    assert hours.zone(None) is UTC


@pytest.mark.parametrize(
    "given",
    [
        {"hours": ["20:00"]},
        {"hours": ["20:00-25:00"]},
        {"hours": ["24:00-06:00"]},
        {"hours": ["8:00-9:00"]},
        {"hours": ["20:00-20:00"]},
        {"hours": ["20:00-06:00\n"]},
        {"hours": "20:00-06:00"},
        {"days": ["Sat"]},
        {"days": "sat"},
        {"time_zone": "Europe/Atlantis"},
        {"time_zone": "../../etc/passwd"},
        {"time_zone": "/etc/localtime"},
        {"time_zone": ""},
        {"time_zone": "Europe"},
        {"agreement_until": "soon"},
    ],
)
def test_what_is_no_hour_no_day_and_no_zone_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(given)


def test_in_words() -> None:
    assert hours.in_words(["20:00-06:00", "12:00-13:00"], ["sat", "sun"]) == "20:00-06:00, 12:00-13:00 on sat, sun"
    assert hours.in_words([], ["sat"]) == "00:00-24:00 on sat"
    assert hours.in_words(["20:00-06:00"], []) == "20:00-06:00"
