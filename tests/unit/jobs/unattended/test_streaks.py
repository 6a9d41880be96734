"""What goes wrong run after run: since when, how often, and when people are told again."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedsite.errors import AnotherRun, DataNotFit, Interrupted, OutsideHours, TryAgainLater, Unreachable
from fedsite.jobs.unattended import endings, streaks
from fedsite.jobs.unattended.endings import Ending
from fedsite.jobs.unattended.streaks import Streak, after

NOW = datetime(2026, 11, 20, 2, 17, tzinfo=UTC)
FAILED = endings.of_error(Unreachable("No progress.", "Look."))


def test_the_same_failure_is_counted_and_another_begins_anew() -> None:
    first = after(None, FAILED, NOW)
    assert first == Streak("unreachable", 69, "No progress.", "Look.", NOW.isoformat(), NOW.isoformat())
    second = after(first, endings.of_error(Unreachable("Another word.")), NOW + timedelta(hours=6))
    assert second is not None
    assert (second.times, second.since, second.message) == (2, first.since, "Another word.")
    assert second.how_often == "This was the 2nd time in a row, since 2026-11-20 02:17 UTC."
    other = after(second, endings.of_error(DataNotFit("Two cases are gone.")), NOW)
    assert other is not None
    assert (other.code, other.times) == ("data-not-fit", 1)
    assert other.how_often == "This was on 2026-11-20 02:17 UTC."
    assert after(other, Ending("nothing-to-do"), NOW) is None


@pytest.mark.parametrize("error", [AnotherRun("x"), OutsideHours("x"), KeyboardInterrupt(), Interrupted("x")])
def test_an_ordinary_night_neither_ends_nor_lengthens_it(error: BaseException) -> None:
    streak = after(None, FAILED, NOW)
    assert after(streak, endings.of_error(error), NOW) is streak


def test_what_waits_is_counted_too() -> None:
    waiting = after(None, endings.of_error(TryAgainLater("Nobody has agreed.")), NOW)
    assert waiting is not None
    assert (waiting.code, waiting.exit_code) == ("try-again-later", 75)


def test_a_bugs_own_words_are_withheld() -> None:
    ending = endings.of_error(ValueError("Jane Doe 1970-01-01"))
    assert (ending.exit_code, ending.code) == (1, "bug")
    assert "Jane" not in ending.message
    assert endings.of_error(SystemExit()).exit_code == endings.TERMINATED


def test_people_hear_of_it_once_a_day_and_whatever_the_clock() -> None:
    streak = after(None, FAILED, NOW)
    assert streak is not None
    assert streak.wants_telling(NOW)
    told = replace(streak, told=NOW.isoformat())
    for hours, wanted in ((0, False), (23, False), (24, True), (-1, True)):
        assert told.wants_telling(NOW + timedelta(hours=hours)) is wanted


def test_it_is_kept_and_forgotten(tmp_path: Path) -> None:
    streak = after(None, FAILED, NOW)
    streaks.save(tmp_path, streak)
    kept = tmp_path / streaks.FOLDER / streaks.NAME
    assert kept.stat().st_mode & 0o777 == 0o600
    assert streaks.load(tmp_path) == streak
    for broken in (b"", b"[]", b"{}", json.dumps({**json.loads(kept.read_bytes()), "since": "x"}).encode()):
        kept.write_bytes(broken)
        assert streaks.load(tmp_path) is None
    streaks.save(tmp_path, None)
    streaks.save(tmp_path, None)
    assert not kept.exists()


def test_numbers_in_words() -> None:
    assert [streaks.ordinal(one) for one in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th")
    ]
