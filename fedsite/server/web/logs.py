"""The server's log as one JSON object a line, for whoever collects logs.

What is logged names sites, rounds and digests. Of an error that is not fedsite's own only its kind and where it was
raised are told: its text may hold whatever was being worked on, a secret too.
"""

import json
import logging
import traceback
from datetime import UTC, datetime

from fedsite.errors import FedsiteError


class JsonLines(logging.Formatter):
    """`event` is the message before its values are filled in: what alerts and counts can hold on to."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, on one line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": str(record.msg),
            "message": record.getMessage(),
        }
        error = record.exc_info[1] if record.exc_info else None
        return json.dumps(entry | (_told(error) if error else {}))


def _told(error: BaseException) -> dict[str, object]:
    frames = traceback.extract_tb(error.__traceback__)
    told: dict[str, object] = {
        "error": type(error).__name__,
        "frames": [f"{one.filename}:{one.lineno} {one.name}" for one in frames],
    }
    return told | ({"reason": error.message} if isinstance(error, FedsiteError) else {})
