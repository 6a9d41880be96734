"""What a schedule writes about itself: a line at the head of every unit, and of its part of a crontab.

It holds the settings as JSON and a digest of all that follows, so `fedsite schedule show` can tell what is installed,
and whether somebody has changed it since, from the very text that systemd or cron goes by.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedsite.jobs.schedule.times import Schedule

MARK = "# fedsite schedule"
HINT = "# Written by fedsite schedule install, which replaces it; fedsite schedule remove takes it away."
_LINE = re.compile(rf"{MARK} (fedsite-[0-9a-f]{{8}}) (\{{.*\}}) ([0-9a-f]{{16}})")


@dataclass(frozen=True)
class Found:
    """What a text says of itself; None where somebody has changed it since, and it cannot be believed."""

    schedule: Schedule | None


def name_of(state: Path) -> str:
    """The name of a state folder's schedule: two sites on one machine, or one in two federations, have two."""
    return f"fedsite-{hashlib.sha256(bytes(state)).hexdigest()[:8]}"


def sealed(name: str, schedule: Schedule, body: str) -> str:
    """The body with its head."""
    settings = json.dumps(asdict(schedule))
    return f"{MARK} {name} {settings} {_digest(name, settings, body)}\n{HINT}\n{body}"


def read(text: str) -> Found:
    """What a sealed text says."""
    head, _, rest = text.partition("\n")
    match = _LINE.fullmatch(head)
    hint, body = rest[: len(HINT) + 1], rest[len(HINT) + 1 :]
    if match is None or hint != f"{HINT}\n" or match[3] != _digest(match[1], match[2], body):
        return Found(None)
    try:
        return Found(TypeAdapter(Schedule).validate_json(match[2]))
    except ValidationError:  # a newer fedsite may know of more
        return Found(None)


def _digest(name: str, settings: str, body: str) -> str:
    return hashlib.sha256(f"{name}\n{settings}\n{body}".encode()).hexdigest()[:16]
