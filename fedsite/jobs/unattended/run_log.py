"""One line of JSON for each run of `fedsite train-round`, in the state folder: bounded, and this user's alone."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsite.files import PRIVATE_FOLDER, make_folder

FOLDER, NAME = "logs", "runs.jsonl"
FILE_BYTES, OLDER_FILES = 1_000_000, 4  # some ten thousand runs
_LONGEST_LINE = 8192


def write(state: Path, facts: Mapping[str, Any]) -> None:
    """Adds a line. Raises OSError, CannotWrite."""
    # What rotates logs brings sockets and pickles with it, which whoever only reads does not need.
    from fedsite.jobs.unattended.rotation import add

    make_folder(state / FOLDER, PRIVATE_FOLDER)
    add(state / FOLDER / NAME, json.dumps(facts), FILE_BYTES, OLDER_FILES)


def last(state: Path) -> dict[str, Any] | None:
    """The newest line; None where there is none that can be read."""
    try:
        with (state / FOLDER / NAME).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
            return _parsed(file.read().splitlines()[-1])
    except (OSError, IndexError):
        return None


def since(state: Path, time: str) -> list[dict[str, Any]]:
    """The lines from a time on (UTC, ISO 8601), oldest first; what cannot be read is left out."""
    files = [state / FOLDER / f"{NAME}.{number}" for number in range(OLDER_FILES, 0, -1)]
    found = []
    for path in (*files, state / FOLDER / NAME):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found += [one for one in map(_parsed, lines) if one is not None]
    return [one for one in found if str(one.get("time")) >= time]


def _parsed(line: str | bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
