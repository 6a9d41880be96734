"""A training that is told to stop: by systemd, a shutdown, or the end of the hours. Nothing that was done is lost."""

import os
import pty
import re
import select
import signal
import tempfile
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from support import processes
from support.federation import Server, plan_file
from support.processes import FEDSITE
from support.site import Site, prepare_blobs

STEPS = 100_000
LOCAL = {"steps": STEPS, "batch_size": 1, "patch_voxels": [16, 16, 16]}
ROUNDS = {"quorum": 1, "enough": 9, "deadline_seconds": 600}
PATIENCE_SECONDS = 120


def stopped_in_training(site: Site, after: int) -> tuple[int, str, float]:
    """Runs `train-round` until it has taken more than `after` steps, by its own bar, and sends it SIGTERM.

    Gives its exit code, what it said, and the seconds that it took to end.
    """
    mine, theirs = pty.openpty()
    with tempfile.TemporaryFile() as nothing:
        streams = [nothing.fileno(), nothing.fileno(), theirs]
        environment = site.variables | {"TERM": "xterm", "COLUMNS": "200"}
        process = processes.begin([FEDSITE, "train-round"], environment, streams, processes.SITE)
        os.close(theirs)
        said, told, end = "", 0.0, time.monotonic() + PATIENCE_SECONDS
        while block := _read(mine, end):
            said += block
            steps = [int(found) for found in re.findall(rf"(\d+)/{STEPS}", said)]
            if not told and steps and steps[-1] > after:
                told = time.monotonic()
                process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_SECONDS)
    os.close(mine)
    return code, said, time.monotonic() - told


def _read(terminal: int, end: float) -> str:
    assert select.select([terminal], [], [], max(0, end - time.monotonic()))[0], "nothing was said for too long"
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # the other side is closed
        return ""


def kept_steps(site: Site, number: int) -> int:
    return len(load_file(site.state / "checkpoints" / f"round-{number}.training.safetensors")["losses"])


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="training",
    what="SIGTERM, as systemd or a shutdown sends it",
    where="in the middle of a training",
    promised="ends after the step that it is at (exit 143) and keeps it; the next run goes on from that step",
)
@pytest.mark.fault(
    part="training",
    what="the round ends while a training was stopped",
    where="between the run that was stopped and the next one",
    promised="told; its weights are removed, nothing was charged, and the next round is taken",
)
def test_told_to_stop_and_overtaken(server: Server, site: Site, tmp_path: Path) -> None:
    prepare_blobs(site)
    site.configure(training={"checkpoint_minutes": 1440, "evaluate": False}, policy={"maximum_steps": STEPS})
    plan = plan_file(tmp_path, local=LOCAL, rounds=ROUNDS)
    site.ok("model", "init", str(plan), "-o", str(tmp_path / "model.safetensors"))
    number = server.open_series(plan, tmp_path / "model.safetensors")

    code, said, seconds = stopped_in_training(site, after=1)
    assert code == 143, said
    assert "Terminated" in said
    print(f"SIGTERM to exit: {seconds:.2f} s")  # shown by -s; on an idle machine under 1
    first = kept_steps(site, number)
    assert first > 1, "though the next checkpoint was a day away"

    code, said, _ = stopped_in_training(site, after=first)
    assert code == 143, said
    begun = next(int(found) for found in re.findall(rf"(\d+)/{STEPS}", said) if int(found))
    assert begun > first, "it went on from there"
    assert kept_steps(site, number) >= begun

    new = server.open_round(tmp_path, local=LOCAL | {"steps": 0}, rounds=ROUNDS)
    answer = site.run("train-round", "--quiet")
    assert (answer.code, answer.json["data"]["round"]) == (0, new)
    assert f"Round {number} ended" in answer.stderr
    assert site.round_state(number)[0] == "abandoned"
    assert [body for body in site.ledger() if body.get("round") == number] == []
    assert list((site.state / "checkpoints").iterdir()) == []
