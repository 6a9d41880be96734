"""The log in JSON: one line a record, whatever happened; of strange errors no text."""

import json
import logging
import sys
from typing import Any

from fedsite.errors import CannotWrite
from fedsite.server.web.logs import JsonLines


def told(message: str, *values: object, error: Exception | None = None) -> dict[str, Any]:
    info = None
    if error is not None:
        try:
            raise error
        except (CannotWrite, ValueError):
            info = sys.exc_info()
    line = JsonLines().format(logging.LogRecord("fedsite.server", logging.WARNING, "", 0, message, values, info))
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_record() -> None:
    record = told("round %d of\n%s", 3, 'a "b"')
    assert (record["event"], record["message"]) == ("round %d of\n%s", 'round 3 of\na "b"')
    assert (record["level"], record["logger"]) == ("warning", "fedsite.server")
    assert record["time"].endswith("+00:00")


def test_an_error_of_ours_says_why_and_a_strange_one_only_where() -> None:
    ours = told("no", error=CannotWrite("The disk is full.", "Free some space."))
    assert (ours["error"], ours["reason"]) == ("CannotWrite", "The disk is full.")
    strange = told("no", error=ValueError("a passphrase"))
    assert strange["error"] == "ValueError"
    assert "test_logs.py" in strange["frames"][-1]
    assert "passphrase" not in json.dumps(strange)
