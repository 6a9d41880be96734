"""What a training step costs in fedsite's loop, against the bare step: forward, loss, backward and optimiser on a
fixed tensor that lies on the device. Beside it a plain MONAI loop: CacheDataset, DataLoader, RandCropByPosNegLabeld,
autocast.

Network, loss, optimiser and batch are the same; the data are the same cases, once in the case store, once as NIfTI.
The three take turns within one process, so that whatever else the machine does hits all of them. Ratios are medians
over the turns, of wall and of CPU time (all threads and workers): on a shared machine the second is what the loop
itself does. Peak memory is that of a process of its own.

On a GPU: SegResNet, bfloat16, patches of 128^3; on a CPU: the small U-Net and patches of 64^3. Batches of two.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_rows import Row, compare, main
from torch import nn

from fedsite.dataset.cases import CaseFiles, stored, write_case
from fedsite.tasks import networks, registry
from fedsite.tasks.description import Task
from fedsite.training import planning
from fedsite.training.batches import Batch
from fedsite.training.checkpoints import Checkpoints
from fedsite.training.devices import Precision, choose_device, prepare_device
from fedsite.training.fit import Machine, Recipe, fit
from fedsite.training.schedules import make_optimizer
from fedsite.training.steps import SupervisedStep

Side = tuple[int, int, int]
BATCH = 2
RATE = 1e-3
WARM = 3
TARGET = 1.05
MIB = 1 << 20


@dataclass(frozen=True)
class Size:
    """What is trained on which device, and for how long."""

    device: torch.device
    network: str
    settings: dict[str, Any]
    patch: Side
    volume: Side
    cases: int
    steps: int
    turns: int

    @property
    def words(self) -> str:
        """The size, for a row."""
        return f"{self.network}, {self.patch[0]}^3, batch {BATCH}, {self.device.type}"


def size_for(quick: bool) -> Size:
    """The GPU's where there is one."""
    device = choose_device()
    if device.type == "cuda":
        turns = 3 if quick else 9
        return Size(device, "segresnet", {"init_filters": 16}, (128,) * 3, (176, 208, 176), 16, 24, turns)
    settings = {"channels": [8, 16, 32, 64]}
    if quick:
        return Size(device, "unet", settings, (48,) * 3, (96, 112, 96), 6, 6, 5)
    return Size(device, "unet", settings, (64,) * 3, (96, 112, 96), 24, 10, 15)


def measure(quick: bool) -> list[Row]:
    """Seconds of a step, CPU seconds of a step, and memory, of the three loops."""
    size = size_for(quick)
    prepare_device(size.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, size)
        turns: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
        for _ in range(size.turns):
            for kind, run in KINDS.items():
                turns[kind].append(run(folder, size))
        peaks = {kind: _in_a_process(kind, folder, quick) for kind in KINDS}
        rows = [*_time_rows(size, turns), *_memory_rows(size, peaks), _checkpoint_row(folder, size)]
    return rows if quick else [*rows, *_policy_rows(size)]


Cost = tuple[float, float]  # wall and CPU seconds of a step


def _time_rows(size: Size, turns: dict[str, list[Cost]]) -> list[Row]:
    rows = []
    for clock, index in (("", 0), (", CPU time", 1)):
        bare = [turn[index] for turn in turns["bare"]]
        rows.append(
            compare(f"bare step ({size.words}){clock}", statistics.median(bare), "s", "itself", statistics.median(bare))
        )
        for kind, target in (("fedsite", TARGET), ("monai", None)):
            ratio = statistics.median(turn[index] / alone for turn, alone in zip(turns[kind], bare, strict=True))
            reference = statistics.median(bare)
            rows.append(compare(f"  {NAMES[kind]}{clock}", ratio * reference, "s", "bare step", reference, target))
    return rows


def _memory_rows(size: Size, peaks: dict[str, dict[str, float]]) -> list[Row]:
    wheres = ["host"] + ["GPU"] * (size.device.type == "cuda")
    return [
        compare(f"peak {where} memory, {NAMES[kind]}", peaks[kind][where], "MiB", "bare step", peaks["bare"][where])
        for where in wheres
        for kind in ("fedsite", "monai")
    ]


# --- the three loops ----------------------------------------------------------------------------------------------


def build(size: Size) -> tuple[Task, nn.Module, Callable[..., torch.Tensor]]:
    """The task, its network and its loss."""
    task = registry.get("stroke-dwi").narrowed(["dwi"])
    return task, networks.build(task, size.network, size.settings, seed=1), registry.module(task.module).loss()


def bare(_folder: Path, size: Size) -> Cost:
    """What cannot be saved: the step alone, on a tensor that lies there, in the layout that the loop would choose."""
    _, network, loss = build(size)
    optimizer, precision = make_optimizer(network.to(size.device), "adam", RATE), Precision.of(size.device)
    planned = SupervisedStep(network, optimizer, loss, size.device)
    planning.plan(planned, (1, *size.patch), BATCH)
    image = torch.randn(BATCH, 1, *size.patch, device=size.device)
    label = (image > 1).to(torch.uint8)
    image = image.contiguous(memory_format=planned.layout)
    clock = Clock(size)
    for number in range(WARM + size.steps):
        optimizer.zero_grad()
        with precision.autocast():
            logits = network(image)
        torch.autograd.backward(loss(logits.float(), label))
        optimizer.step()
        clock(number + 1)
    return clock.cost


def fedsite(folder: Path, size: Size) -> Cost:
    """The loop of a round, with all that belongs to it."""
    task, network, loss = build(size)
    recipe = Recipe(WARM + size.steps, BATCH, size.patch, "adam", RATE, 0.67, seed=1)
    machine = Machine(size.device, checkpoint=folder / "kept.safetensors", purpose="bench")
    clock = Clock(size)
    fit(
        network,
        task,
        CaseFiles(stored(folder / "cases")),
        loss,
        recipe,
        machine,
        lambda done, total, note="": clock(done),
    )
    return clock.cost


def monai(folder: Path, size: Size) -> Cost:
    """What its tutorials show, with the same augmentation."""
    _, network, loss = build(size)
    network.to(size.device)
    optimizer, precision = make_optimizer(network, "adam", RATE), Precision.of(size.device)
    clock = Clock(size)
    for number, batch in zip(range(WARM + size.steps), _monai_batches(folder, size), strict=False):
        image, label = batch["image"].to(size.device), batch["label"].to(size.device)
        optimizer.zero_grad()
        with precision.autocast():
            logits = network(image)
        error = loss(logits.float(), label)
        torch.autograd.backward(error)
        optimizer.step()
        error.item()
        clock(number + 1)
    return clock.cost


def _monai_batches(folder: Path, size: Size) -> Iterator[dict[str, torch.Tensor]]:
    from monai import transforms as t
    from monai.data import CacheDataset, DataLoader

    keys = ("image", "label")
    chain = t.Compose(
        [
            t.LoadImaged(keys, reader="NibabelReader", ensure_channel_first=True, image_only=True),
            t.RandCropByPosNegLabeld(keys, "label", size.patch, pos=2, neg=1, num_samples=1),
            *(t.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            t.RandAdjustContrastd("image", prob=0.15, gamma=(0.7, 1.5)),
            t.RandGaussianNoised("image", prob=0.15, std=0.1),
            t.RandScaleIntensityd("image", factors=0.1, prob=1.0),
            t.RandShiftIntensityd("image", offsets=0.1, prob=1.0),
            t.ToTensord(keys, track_meta=False),
        ]
    )
    files = [{"image": str(path), "label": str(path).replace("image", "label")} for path in folder.glob("*.image.nii")]
    dataset = CacheDataset(files, chain, cache_rate=1.0, num_workers=0, progress=False)
    workers = 1 if size.device.type == "cpu" else 4
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        pin_memory=size.device.type == "cuda",
        persistent_workers=True,
    )

    while True:
        yield from loader


class Clock:
    """Wall and CPU seconds of a step, counted once the first few are done."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._begun = (0.0, 0.0)
        self.cost = (0.0, 0.0)

    def __call__(self, done: int) -> None:
        """So many steps are done."""
        if done == WARM:
            self._begun = self._now()
        elif done == WARM + self._size.steps:
            wall, cpu = self._now()
            self.cost = ((wall - self._begun[0]) / self._size.steps, (cpu - self._begun[1]) / self._size.steps)

    def _now(self) -> Cost:
        if self._size.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), cpu_seconds()


def cpu_seconds() -> float:
    """Of this process and the workers that it has now."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


KINDS: dict[str, Callable[[Path, Size], Cost]] = {"bare": bare, "fedsite": fedsite, "monai": monai}
NAMES = {"bare": "bare step", "fedsite": "fedsite's loop", "monai": "plain MONAI loop"}


# --- data, memory, and what is decided by measuring -----------------------------------------------------------------


def make_data(folder: Path, size: Size) -> None:
    """Noise with a bright ball, in the case store and as NIfTI: what is in the images does not matter here."""
    import nibabel as nib
    from support.case_maker import content_of

    random = np.random.default_rng(0)
    for number in range(size.cases):
        centre = [random.integers(side // 4, 3 * side // 4) for side in size.volume]
        grids = np.meshgrid(*(np.arange(side) - middle for side, middle in zip(size.volume, centre, strict=True)))
        distance = np.sum(np.square(grids), axis=0).swapaxes(0, 1)
        label = (distance < 100).astype(np.uint8)
        image = (random.standard_normal(size.volume, dtype=np.float32) + 2 * label).astype(np.float16)
        write_case(folder, f"e-{number:08d}", content_of(image[None], label, ("dwi",)))
        for kind, voxels in (("image", image.astype(np.float32)), ("label", label)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{number}.{kind}.nii")


def _in_a_process(kind: str, folder: Path, quick: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--peak", kind, str(folder), str(int(quick))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return {where: float(value) for where, value in json.loads(done.stdout).items()}


def peak(kind: str, folder: Path, quick: bool) -> None:
    """Runs one loop and prints the MiB that it took at most, its workers' included."""
    size = size_for(quick)
    prepare_device(size.device)
    KINDS[kind](folder, size)
    kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = {"host": kib / 1024}
    if size.device.type == "cuda":
        found["GPU"] = torch.cuda.max_memory_allocated() / MIB
    print(json.dumps(found))


def _checkpoint_row(folder: Path, size: Size) -> Row:
    """What keeping the training costs, every five minutes."""
    _, network, loss = build(size)
    network.to(size.device)
    step = SupervisedStep(network, make_optimizer(network, "adam", RATE), loss, size.device)
    step(Batch(torch.randn(BATCH, 1, *size.patch), torch.ones(BATCH, 1, *size.patch, dtype=torch.uint8)))
    every = Machine(size.device).checkpoint_seconds
    checkpoints = Checkpoints(folder / "kept", "bench", every, step)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        checkpoints.keep([0.5] * 1000, 1.0)
        seconds.append(time.perf_counter() - started)
    return compare(
        "keeping the training on disk", statistics.median(seconds), "s", f"{every:g} s of training", every, 0.01
    )


def _policy_rows(size: Size) -> list[Row]:
    """Layout and compiler, by which planning.py and the default of training.compile were decided."""
    if size.device.type == "cuda":
        return _choices(size)
    large = {"channels": [16, 32, 64, 128], "num_res_units": 2}
    sizes = (size, replace(size, settings=large), replace(size, network="segresnet", settings={"init_filters": 8}))
    return [row for one in sizes for row in _choices(replace(one, patch=(48,) * 3, steps=3, turns=3))]


def _choices(size: Size) -> list[Row]:
    """CPU time on a CPU, since that is shared; else wall time."""
    steps = {
        "contiguous": _step(size),
        "channels last": _step(size, torch.channels_last_3d),
        "torch.compile": _step(size, compiled=True),
    }
    batch = Batch(torch.randn(BATCH, 1, *size.patch), torch.ones(BATCH, 1, *size.patch, dtype=torch.uint8))
    costs: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(1 + size.turns):
        for name, step in steps.items():
            clock = Clock(size)
            for number in range(WARM + size.steps):
                step(batch)
                clock(number + 1)
            if turn:  # the first one compiles
                costs[name].append(clock.cost[size.device.type == "cpu"])
    reference = statistics.median(costs["contiguous"])
    what = f"step of {size.network} {next(iter(size.settings.values()))}"
    return [
        compare(f"{what}, {name}", statistics.median(costs[name]), "s", "contiguous, not compiled", reference)
        for name in ("channels last", "torch.compile")
    ]


def _step(size: Size, layout: torch.memory_format = torch.contiguous_format, compiled: bool = False) -> SupervisedStep:
    _, network, loss = build(size)
    optimizer = make_optimizer(network.to(size.device), "adam", RATE)
    step = SupervisedStep(network, optimizer, loss, size.device, compiled=compiled)
    step.use_layout(layout)
    return step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        peak(sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "1")
    else:
        sys.exit(main(__doc__ or "", measure))
