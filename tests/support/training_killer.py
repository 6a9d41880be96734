"""Trains a small network in child processes, kills them at random moments, and compares the weights that they end with.

Everything is imported once; each child is a fork, with a network, an optimiser and a sampler of its own. Prints as JSON
the step from which each child went on, and whether the last one's weights are those of a training left alone.

    training_killer.py FOLDER KILLS SEED
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from fedsite.tasks import registry
from fedsite.training.fit import Machine, Recipe, fit
from fedsite.training.schedules import make_optimizer

STEPS = 120
TASK = registry.get("stroke-dwi").narrowed(["dwi"])
RECIPE = Recipe(STEPS, 2, (16, 16, 16), "adam", 0.01, 0.5, seed=1, schedule="cosine")
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1))


def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, label[:, 0].long())


def case() -> SimpleNamespace:
    image = np.random.default_rng(0).standard_normal((1, 24, 24, 24)).astype(np.float16)
    label = (image[0] > 1).astype(np.uint8)
    return SimpleNamespace(image=image, label=label, missing=(), foreground=lambda: np.flatnonzero(label))


def train(folder: Path) -> None:
    """Trains, or goes on; leaves the step it went on from, and at the end the weights."""
    trained = network()
    machine = Machine(CPU, checkpoint=folder / "kept.safetensors", checkpoint_seconds=0, purpose="a")
    begun = folder / f"begun-{os.getpid()}"

    def progress(done: int, total: int, note: str = "") -> None:
        if not begun.exists():
            begun.write_text(str(done - 1))

    fit(trained, TASK, [case()], loss, RECIPE, machine, progress)
    values = torch.cat([one.detach().flatten() for one in trained.parameters()]).numpy()
    (folder / "weights.part").write_bytes(values.tobytes())
    (folder / "weights.part").replace(folder / "weights")


def child(folder: Path) -> int:
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)
        train(folder)
        os._exit(0)
    return process


def run(folder: Path, kills: int, seed: int) -> dict[str, object]:
    chance = random.Random(seed)
    make_optimizer(network(), "adam", 0.1)  # what torch imports with its first optimiser is imported once
    alone, killed = folder / "alone", folder / "killed"
    alone.mkdir()
    killed.mkdir()
    started = time.monotonic()
    os.waitpid(child(alone), 0)
    whole = time.monotonic() - started
    done = 0
    while done < kills:
        process = child(killed)
        time.sleep(chance.uniform(0, whole / 5))
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        done += os.WIFSIGNALED(status)
        if (killed / "weights").exists() and done < kills:  # it was faster: once more from the beginning
            for file in killed.iterdir():
                if not file.name.startswith("begun"):
                    file.unlink()
    os.waitpid(child(killed), 0)
    begun = [int(file.read_text() or 0) for file in sorted(killed.glob("begun-*"), key=os.path.getmtime)]
    same = (alone / "weights").read_bytes() == (killed / "weights").read_bytes()
    return {"kills": done, "begun": begun, "same": same}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
