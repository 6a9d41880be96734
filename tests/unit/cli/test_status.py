"""The screen of `fedsite status`, in as many columns as there are."""

from typing import Any

import pytest

from fedsite.cli.status import _screen

EMPTY: dict[str, Any] = {
    "identity": None,
    "data": None,
    "rounds": [],
    "privacy": {"guarantee": "epsilon 0", "left": 8.0, "budget": 8.0, "releases": 0},
    "last_run": None,
    "next_run": None,
    "warnings": [],
}
FULL: dict[str, Any] = {
    "identity": {
        "site": "st-mary",
        "federation": "strokes",
        "server": "https://federation.example:8443",
        "days_left": 71.6,
        "renewed_from": "2027-01-20",
    },
    "data": {"task": "stroke-dwi", "training": 160, "validation": 40, "excluded": 3},
    "rounds": [
        {"round": number, "outcome": "update sent, receipt verified", "changed": "2026-11-20T02:17:09+00:00"}
        for number in (98, 99, 100)
    ],
    "privacy": {"guarantee": "epsilon 6 per patient", "left": 2.0, "budget": 8.0, "releases": 100},
    "last_run": {"time": "2026-11-21T02:17:09+00:00", "outcome": "failed", "code": "unreachable", "seconds": 120.4},
    "next_run": "2026-11-22T02:17+01:00",
    "warnings": [{"message": "No progress for 120 seconds. " * 5, "mend": "Ask the network's operators."}],
}


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = _screen(FULL).splitlines()
    assert len(lines) < 24
    assert columns - 20 < max(len(line) for line in lines) <= columns
    for line in (
        "Site         st-mary in federation strokes",
        "Certificate  72 days left, to be renewed from 2027-01-20 on",
        "Budget       [######------------------] epsilon 2 of 8 left, 100 releases",
        "Rounds       100  2026-11-20 02:17 UTC  update sent, receipt verified",
        "             99   2026-11-20 02:17 UTC  update sent, receipt verified",
        "Last run     2026-11-21 02:17 UTC  failed (unreachable), 120 s",
        "Next run     Sun 2026-11-22 02:17 by this site's clock",
        "             Ask the network's operators.",
    ):
        assert line in lines
    assert sum(line.startswith("Warning ") for line in lines) == 1


def test_what_is_not_there_yet_says_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen = _screen(EMPTY)
    for command in ("fedsite enroll --invitation FILE", "fedsite prepare-data", "fedsite schedule install"):
        assert command in screen
    assert "Warning" not in screen
    assert "Last run" not in screen
