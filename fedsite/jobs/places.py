"""Where results may go: what can be known to fail at the end is better said at the start."""

import os
from pathlib import Path

from fedsite.errors import CannotWrite, UsageError


def require_outside(source: Path, place: Path, option: str) -> None:
    """Raises UsageError when a place, named by an option, lies within the source: that is only ever read."""
    if place.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"The place of {option} lies within the source.", "Choose one outside of it.")


def require_writable(place: Path, option: str) -> None:
    """Raises CannotWrite when a folder, or the nearest one above it that is there, takes no files."""
    # access() answers False, where exists() would raise, for what lies in a folder that may not be entered.
    standing = next(one for one in (place, *place.absolute().parents) if os.access(one, os.F_OK))
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        raise CannotWrite(
            f"Cannot write in {standing}.",
            f"Give the user who runs fedsite write permission there, or change {option}.",
        )
