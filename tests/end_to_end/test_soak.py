"""scripts/soak, small: a few rounds and a few weeks in which sites and server are killed, and all is accounted for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soak
from endurance import clock, world
from endurance.verdict import Verdict
from support.federation import environment
from support.processes import SITE

ROOT = Path(__file__).parents[2]
SEED = 2867
"""In the first round the server is killed and a site's line breaks three times, in the second the other is killed."""


def test_two_rounds_of_two_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "IMPORTED", SITE)  # what other tests have begun
    found: Verdict = soak.a_soak(soak.Settings(2, 2, SEED), tmp_path)
    assert found.wrong == []
    assert not [row for row in found.rows if row.holds is False]
    told = {row.what: row.value for row in found.rows}
    assert sum(value for what, value in told.items() if what.startswith("rounds: ")) >= 2
    assert sum(value for what, value in told.items() if what.startswith(("runs: killed", "runs: cut"))) >= 2
    assert told["sites in rounds: took_part"] >= 2
    assert told["charges of the sites' ledgers, held against the server's receipts"] >= 2


@pytest.mark.exhaustive
def test_eleven_weeks(tmp_path: Path) -> None:
    """Long enough for certificates to be renewed, and for a plan to be replaced by the next."""
    if not any(Path("/").glob(clock.LIBRARY)):
        message = "libfaketime is not here (scripts/setup --test-tools)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    file = tmp_path / "rows.json"
    command = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--year", "--rounds", "3", "--days", "80"]
    told = subprocess.run(
        [*command, "--sites", "1", "--json", str(file)],
        env=environment() | {"PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    found = {row["what"]: row["value"] for row in json.loads(file.read_text())["rows"]}
    assert found["sites in rounds: took_part"] >= 2
    assert found["renewals by site-01"] >= 1
    assert found["renewals by the server"] >= 1, "weeks have passed for its clock, too"
