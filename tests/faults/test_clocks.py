"""A site whose clock is wrong by 30 days, from the start or in the middle of a run; then it is right again.

libfaketime (Debian: faketime) answers in the system's place, so the command starts from nothing here.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.federation import Server
from support.processes import FEDSITE
from support.site import Site

from fedsite.server.rounds import reports

PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 3600},
}


@pytest.fixture(scope="module")
def library() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        message = "libfaketime is not here (scripts/setup --test-tools)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return str(found[0])


def train_round(site: Site, library: str, **clock: str) -> int:
    """The exit code of `fedsite train-round` by another clock; durations stay what they are."""
    environment = {
        "PATH": os.environ["PATH"],
        "FEDSITE_CONFIG": str(site.config),
        "LD_PRELOAD": library,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    done = subprocess.run(
        [sys.executable, FEDSITE, "train-round", "--json"],
        env=environment | clock, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if done.returncode == 77:
        assert "clock" in done.stdout
    return done.returncode


def charges(site: Site, number: int) -> list[dict[str, Any]]:
    return [body for body in site.ledger() if body.get("round") == number]


def assert_ends_once(server: Server, site: Site, number: int) -> None:
    site.ok("train-round")
    assert [body["kind"] for body in charges(site, number)] == ["reserved", "released", "acknowledged"]
    assert [one["site"] for one in reports.round_report(server.federation, number)["took_part"]] == ["site-a"]
    assert site.ok("audit", "verify")["outcome"] == "whole"


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="time",
    what="the site's clock is 30 days ahead, or behind",
    where="the whole run of `fedsite train-round` (libfaketime)",
    promised="told, with the clock named (exit 77); nothing is charged or sent; set right, the round ends exactly once",
)
@pytest.mark.parametrize("away", ["+30d", "-30d"])
def test_a_clock_that_is_wrong(server: Server, site: Site, tmp_path: Path, library: str, away: str) -> None:
    number = server.open_round(tmp_path, **PLAN)
    assert train_round(site, library, FAKETIME=away) == 77
    assert not charges(site, number)
    assert_ends_once(server, site, number)


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="time",
    what="the site's clock jumps by 30 days in the middle of a round",
    where="after 20, 60, 120 and 240 questions for the time (libfaketime), in one run; between two runs",
    promised="the run ends, or says that the clock is wrong; set right, the round ends exactly once",
)
@pytest.mark.parametrize("away", ["+30d", "-30d"])
def test_a_clock_that_jumps(server: Server, site: Site, tmp_path: Path, library: str, away: str) -> None:
    for calls in (20, 60, 120, 240):
        number = server.open_round(tmp_path, **PLAN)
        code = train_round(site, library, FAKETIME=away, FAKETIME_START_AFTER_NUMCALLS=str(calls))
        assert code in (0, 75, 77), f"after {calls}"
        assert_ends_once(server, site, number)
    number = server.open_round(tmp_path, **PLAN)
    site.killed("after:reserved", "train-round")
    assert train_round(site, library, FAKETIME=away) == 77
    assert_ends_once(server, site, number)
