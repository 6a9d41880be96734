"""`kill -9` in the middle of a training, at any moment: what is resumed ends with the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLER = Path(__file__).parents[1] / "support" / "training_killer.py"
KILLS = 20


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="training",
    what="kill -9 in the middle of a training",
    where="twenty random moments",
    promised="resumed from checkpoints, the weights are the same to the bit",
)
def test_twenty_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(KILLER), str(tmp_path), str(KILLS), "5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS
    assert found["same"]
    assert len([step for step in found["begun"] if step > 0]) >= 5, "kills must have hit in the middle"
