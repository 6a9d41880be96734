"""What has gone wrong run after run: since when, how often. One small file in the state folder's `logs`.

Beside the database, since what goes wrong may be the database. A streak ends with a run that goes well; what is part
of an ordinary night neither ends nor lengthens it, and another kind of failure begins a new one.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, make_folder, write_atomically
from fedsite.jobs.unattended.endings import Ending

FOLDER, NAME = "logs", "streak.json"
TELL_AGAIN = timedelta(days=1)


@dataclass(frozen=True)
class Streak:
    """Runs that ended in the same way, one after the other. Times are UTC, ISO 8601; `told` is when people were."""

    code: str
    exit_code: int
    message: str
    mend: str
    since: str
    last: str
    times: int = 1
    told: str = ""

    @property
    def how_often(self) -> str:
        """Such as `This was the 4th time in a row, since 2026-11-20 02:17 UTC.`"""
        if self.times == 1:
            return f"This was on {clock(self.last)}."
        return f"This was the {ordinal(self.times)} time in a row, since {clock(self.since)}."

    def wants_telling(self, now: datetime) -> bool:
        """Whether people have not heard of it within a day; a clock that was set back hides nothing."""
        told = datetime.fromisoformat(self.told) if self.told else None
        return told is None or not timedelta(0) <= now - told < TELL_AGAIN


def after(streak: Streak | None, ending: Ending, now: datetime) -> Streak | None:
    """The streak once a run has ended so."""
    if ending.went_well:
        return None
    if ending.expected:
        return streak
    time = now.isoformat(timespec="seconds")
    if streak is None or streak.code != ending.code:
        return Streak(ending.code, ending.exit_code, ending.message, ending.mend, time, time)
    return replace(streak, message=ending.message, mend=ending.mend, last=time, times=streak.times + 1)


def load(state: Path) -> Streak | None:
    """The streak of a state folder; None where there is none, or nothing that can be read."""
    try:
        found = Streak(**json.loads((state / FOLDER / NAME).read_bytes()))
        datetime.fromisoformat(found.since), datetime.fromisoformat(found.told or found.last)
    except (OSError, ValueError, TypeError):
        return None
    return found


def save(state: Path, streak: Streak | None) -> None:
    """Keeps it, or forgets the one before. Raises CannotWrite."""
    path = state / FOLDER / NAME
    if streak is not None:
        make_folder(path.parent, PRIVATE_FOLDER)
        write_atomically(path, json.dumps(asdict(streak)).encode(), PRIVATE_FILE)
    elif path.exists():
        path.unlink()


def clock(time: str) -> str:
    """An instant in words, to the minute."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th ..."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
