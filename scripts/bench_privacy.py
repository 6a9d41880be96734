"""What privacy costs. The gate, from two model files to a sealed payload with its digest, against the floor: keystream
and Box-Muller for as many values, nothing else. And a step of dp-sgd, noise included, against the plain step on the
same patches.

What is compared takes turns within one process, so that whatever else the machine does hits both; ratios are medians
over the turns, of wall and of CPU time (all threads). Memory is what is allocated at once beside what was there: of
NumPy's arrays in the gate, of the whole process in a step.
"""

import math
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_rows import Row, compare, main
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedsite.jobs.training import local_work
from fedsite.privacy import mechanism
from fedsite.privacy.dpsgd import PrivateGradient, Settings
from fedsite.privacy.mechanism import CHUNK, Gate
from fedsite.tasks import networks, registry
from fedsite.training.batches import Batch
from fedsite.training.private import PrivateStep
from fedsite.training.schedules import make_optimizer
from fedsite.training.steps import SupervisedStep
from fedsite.wire import payload

SIZES = {"4.7M": 4_700_000, "31M": 31_000_000}
GATE_TARGET, MEMORY_TARGET = 1.3, 0.15
PATIENTS, STEP_TARGET, STEP_MEMORY_TARGET = 8, 1.5, 1.5
PATCHES_OF_A_PATIENT = (1, 2, 4)
SMALL, STEP_PATCH = [16, 32, 64, 128], 40
LARGE, LARGE_PATCH = [32, 64, 128, 256, 512], 32
TASK = registry.get("stroke-dwi").narrowed(["dwi"])
Cost = tuple[float, float]  # wall and CPU seconds


def measure(quick: bool) -> list[Row]:
    """The gate's rows, then a step's."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in SIZES for row in gate_rows(Path(folder), name, 3 if quick else 9)]
    for patches in PATCHES_OF_A_PATIENT:
        rows += step_rows(5 if quick else 15, patches)
    return [*rows, memory_row()]


# --- the gate -----------------------------------------------------------------------------------------------------


def gate_rows(folder: Path, name: str, turns: int) -> list[Row]:
    """Time and memory of the gate on an update of that size."""
    values = SIZES[name]
    seal = sealing(folder, values)
    costs = take_turns({"floor": lambda: floor(values), "gate": seal}, turns)
    rows = ratio_rows(f"gate, {name} values", costs["gate"], "keystream and Box-Muller", costs["floor"], GATE_TARGET)
    update_bytes = 4 * values
    return [*rows, compare("  extra memory", allocated(seal), "bytes", "the update", update_bytes, MEMORY_TARGET)]


def floor(values: int) -> None:
    """What no gate can do without: 64 bits of keystream for each value, and a normal value of them in float64."""
    keystream = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    zeros, half = bytes(8 * CHUNK), CHUNK // 2
    normal = np.empty((2, half))
    for _ in range(0, values, CHUNK):
        words = np.frombuffer(keystream.update(zeros), np.uint64).reshape(2, half)
        radius = (words[0] + 1.0) * 2.0**-64
        np.log(radius, out=radius)
        radius *= -2
        np.sqrt(radius, out=radius)
        angle = words[1] * (2.0**-64 * 2 * math.pi)
        np.cos(angle, out=normal[0])
        np.sin(angle, out=normal[1])
        normal *= radius


def sealing(folder: Path, values: int) -> Callable[[], None]:
    """Sealing the update between two models of that size, which lie in `folder`, as a round does."""
    random = np.random.default_rng(0)
    before = random.standard_normal(values, np.float32)
    models = {"global": before, "trained": before + np.float32(1e-3) * random.standard_normal(values, np.float32)}
    for name, weights in models.items():
        payload.write_model(folder / f"{name}.safetensors", {"weights": weights})
    read, layout = local_work.open_update(folder / "global.safetensors", folder / "trained.safetensors")
    gate, encoded = Gate(1.0, 1.0, values), layout.encoded("float32")
    return lambda: void(mechanism.seal(read, gate, encoded.header, encoded.dtype, folder / "sealed.safetensors"))


def allocated(run: Callable[[], None]) -> int:
    """Bytes that Python and NumPy hold at most during a call."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# --- a step of dp-sgd ---------------------------------------------------------------------------------------------


def step_rows(turns: int, patches: int) -> list[Row]:
    """Time of a private step, of so many patches of each patient, against the plain step on all of them."""
    plain, private = steps(SMALL, STEP_PATCH, patches, micro_batch=PATIENTS * patches)
    costs = take_turns({"plain": plain, "private": private}, turns)
    what = f"step of dp-sgd, {PATIENTS} patients x {patches}, {parameters(SMALL) / 1e6:.2g}M parameters"
    return ratio_rows(what, costs["private"], "the plain step on the same patches", costs["plain"], STEP_TARGET)


def memory_row() -> Row:
    """What a private step needs beside the plain one, which goes through the same patches one at a time."""
    plain, private = steps(LARGE, LARGE_PATCH, 1, micro_batch=1)
    plain(), private()
    extra = peak_bytes(private) - peak_bytes(plain)
    what = f"  extra memory, {parameters(LARGE) / 1e6:.2g}M parameters"
    return compare(what, max(extra, 0), "bytes", "one gradient", 4 * parameters(LARGE), STEP_MEMORY_TARGET)


def steps(channels: list[int], side: int, each: int, micro_batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A plain and a private step of a U-Net, each of a network of its own, on the same patches, `each` of a patient."""
    shape = (PATIENTS * each, 1, side, side, side)
    together = Batch(torch.randn(shape), torch.ones(shape, dtype=torch.uint8))
    patches = [together[number * each : (number + 1) * each] for number in range(PATIENTS)]
    plain, ordinary = supervised(channels, micro_batch), supervised(channels, min(each, micro_batch))
    settings = Settings(clip_norm=1.0, noise_multiplier=1.0, batch_patients=PATIENTS, sampling_rate=1.0)
    private = PrivateStep(ordinary, PrivateGradient(ordinary.network, PATIENTS, settings))
    return lambda: void(plain(together)), lambda: void(private(patches))


def supervised(channels: list[int], micro_batch: int) -> SupervisedStep:
    """The plain step of a U-Net."""
    network, device = unet(channels), torch.device("cpu")
    optimizer, loss = make_optimizer(network, "adam", 1e-3), registry.module(TASK.module).loss()
    return SupervisedStep(network, optimizer, loss, device, micro_batch=micro_batch)


def unet(channels: list[int]) -> torch.nn.Module:
    """The small network of a plan, with these channels."""
    return networks.build(TASK, "unet", {"channels": channels}, seed=1)


def parameters(channels: list[int]) -> int:
    """How many weights it has."""
    return sum(parameter.numel() for parameter in unet(channels).parameters())


def peak_bytes(run: Callable[[], None]) -> int:
    """The most memory that this process holds during a call (Linux: its high-water mark, which is set back before)."""
    Path("/proc/self/clear_refs").write_text("5")
    run()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# --- turns --------------------------------------------------------------------------------------------------------


def take_turns(runs: dict[str, Callable[[], None]], turns: int) -> dict[str, list[Cost]]:
    """What each call costs, one after the other, so many times; a first turn only warms caches."""
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for turn in range(1 + turns):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                costs[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return costs


def ratio_rows(what: str, costs: list[Cost], against: str, references: list[Cost], target: float) -> list[Row]:
    """Wall seconds, with the target, and CPU seconds of all threads, as medians of the ratios turn by turn."""
    rows = []
    for index, (clock, asked) in enumerate((("", target), (", CPU time", None))):
        ratio = statistics.median(cost[index] / base[index] for cost, base in zip(costs, references, strict=True))
        reference = statistics.median(base[index] for base in references)
        rows.append(compare(f"{what}{clock}", ratio * reference, "s", against, reference, asked))
    return rows


def void(_: object) -> None:
    """Gives nothing."""


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
