"""From the DICOM files and the mask of one study to its stored case: fedsite against the same chain in plain MONAI.

Each does it in a process of its own, one thread, files in the page cache of a tmpfs. CPU seconds and peak memory count
from the end of the imports. fedsite scans, judges, pairs, checks and records besides; MONAI is told which files belong
together. What they store must be equal: the image within the last digit of float16, the mask voxel by voxel.

Two workers are measured by the clock, imports included, and need two processors that nobody else uses.

CT is windowed (0 to 80 HU) and cropped, its plainest form; the tasks on CT look through three windows.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_rows import Row, compare

if TYPE_CHECKING:
    import torch
    from bench_readers import Series

    from fedsite.tasks.description import Task

FEDSITE, MONAI = "fedsite", "plain MONAI"
SLICES = {"CT": 140, "MR": 196}
QUICK_SLICES = {"CT": 40, "MR": 64}
REPEATS, QUICK_REPEATS = 3, 1
# Of a study's CPU seconds with MONAI, and of the time that one worker takes.
TARGETS = {"CT": 1 / 2.5, "MR": 1 / 2}
TWO_WORKERS = 1 / 1.7
STUDIES = 64
SPACING = (1.0, 1.0, 1.0)
TASKS = {"CT": "bench-ct", "MR": "stroke-dwi"}


def rows(quick: bool) -> list[Row]:
    """One study, CT and MR; then many studies, one worker against two."""
    import bench_series

    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as temporary:
        for modality, slices in (QUICK_SLICES if quick else SLICES).items():
            place = Path(temporary, modality)
            series = bench_series.make(place / "dicom", modality, slices, "uncompressed")
            _draw_mask(place, series)
            found += _one_study(place, series, QUICK_REPEATS if quick else REPEATS)
        if not quick:  # a few studies do not make up for the import of torch and MONAI
            place = Path(temporary, "MR")
            one, two = (_run(FEDSITE, place, workers=workers, count=STUDIES)["wall"] for workers in (1, 2))
            found.append(compare(f"{STUDIES} MR, 2 workers", two, "s", f"1 worker {one:.3g} s", one, TWO_WORKERS))
    return found


def _one_study(place: Path, series: "Series", repeats: int) -> list[Row]:
    costs = {}
    for tool in (FEDSITE, MONAI):
        runs = [_run(tool, place) for _ in range(repeats)]
        costs[tool] = {key: min(run[key] for run in runs) for key in ("cpu", "memory")}
    _compare_cases(*(next((place / tool).rglob("*.safetensors")) for tool in (FEDSITE, MONAI)))
    own, other = costs[FEDSITE], costs[MONAI]
    name = series.name.removesuffix(" uncompressed")
    target = TARGETS[series.modality]
    return [
        compare(f"{name} prepared, CPU", own["cpu"], "s", f"{MONAI} {other['cpu']:.3g} s", other["cpu"], target),
        *(
            compare(f"{name} prepared, peak memory of {tool}", cost["memory"] / 1e6, "MB", "volume", series.bytes / 1e6)
            for tool, cost in costs.items()
        ),
    ]


def _draw_mask(place: Path, series: "Series") -> None:
    """An oval lesion, as NIfTI under the series' UID, on the grid of the images."""
    import nibabel
    import pydicom
    from support.dicom_maker import Grid

    slices, side, _ = series.shape
    grid = Grid(side, side, slices, between_rows=240 / side, between_columns=240 / side, step=1.0)
    i, j, k = np.ogrid[:side, :side, :slices]
    lesion = ((i / side - 0.55) ** 2 + (j / side - 0.4) ** 2) * 220 + ((k / slices - 0.5) * 8) ** 2 < 1
    uid = pydicom.dcmread(next(series.folder.iterdir()), specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
    (place / "labels").mkdir()
    nibabel.save(nibabel.Nifti1Image(lesion.astype(np.uint8), grid.affine), place / "labels" / f"{uid}.nii.gz")


def _compare_cases(one: Path, other: Path) -> None:
    """Raises RuntimeError unless fedsite's case and MONAI's two tensors hold the same voxels."""
    from safetensors.numpy import load_file

    from fedsite.dataset.cases import open_case

    ours, theirs = open_case(one), load_file(other)
    image, label = theirs["image"], theirs["label"]
    step = np.spacing(np.maximum(np.abs(image), np.float16(0.1)))
    near = ours.image.shape == image.shape and bool(np.all(np.abs(ours.image - image) <= step))
    if not near or not np.array_equal(ours.label, label) or not ours.label.any():
        raise RuntimeError(f"{FEDSITE} and {MONAI} do not store the same case")


def _run(tool: str, place: Path, workers: int = 0, count: int = 1) -> dict[str, float]:
    command = [sys.executable, __file__, tool, str(place), str(workers), str(count)]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    cost: dict[str, float] = json.loads(done.stdout)
    return cost


# --- in the measured process ----------------------------------------------------------------------------------------


class _CtTask:
    """A task on CT (`fedsite.tasks.registry.TaskModule`)."""

    def __init__(self, description: "Task") -> None:
        self.DESCRIPTION = description

    def preprocessing(
        self, _task: "Task", spacing_mm: tuple[float, float, float]
    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The window, on a grid laid by the block that the stroke task uses."""
        import plain_monai

        from fedsite.tasks.steps.grid import RasSpacingd

        grid = RasSpacingd(plain_monai.KEYS, spacing_mm, ("bilinear", "nearest"))
        return plain_monai.chain([grid, *plain_monai.ct_window()])

    def loss(self) -> "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]":
        """That of the stroke task; nothing is trained here."""
        from fedsite.tasks import registry

        return registry.module("stroke-dwi").loss()


def _fedsite(place: Path) -> Callable[[], None]:
    """Prepares the one study, from its folder."""
    from fedsite.dataset import convert
    from fedsite.dataset.manifest import CaseRecord

    works = _works(place)
    settings = convert.Settings(_task(place), SPACING, place / FEDSITE)

    def prepare() -> None:
        (work,) = works()
        outcome = convert.prepare_study(work, settings).outcome
        if not isinstance(outcome, CaseRecord):
            raise RuntimeError(f"refused: {outcome.reason.message}")

    return prepare


def _task(place: Path) -> "Task":
    from fedsite.tasks import registry
    from fedsite.tasks.description import Channel

    # Any series of the modality will do: that of the bench names no b-value.
    channel = Channel(name=place.name.lower(), modality=place.name, summary="a head")
    task = replace(registry.get("stroke-dwi"), name=TASKS[place.name], channels=(channel,))
    if place.name == "CT":
        registry._modules()[task.name] = _CtTask(task)
    return task


def _works(place: Path) -> Callable[[], list[Any]]:
    from fedsite.dataset import dicom_source
    from fedsite.dataset.convert import Work
    from fedsite.dicom.voxels import reading  # noqa: F401 - imports count apart from work
    from fedsite.site.pseudonyms import Pseudonyms

    task = _task(place)

    def works() -> list[Work]:
        collected = dicom_source.collect(place / "dicom", place / "labels", task, Pseudonyms(bytes(32)))
        return [Work(study, "training", "0" * 64) for study in collected.studies]

    return works


def _monai(place: Path) -> Callable[[], None]:
    """The same with MONAI's own readers and transforms."""
    import plain_monai
    from monai.data import PydicomReader
    from monai.transforms import EnsureChannelFirstd, LoadImaged
    from safetensors.torch import save_file

    normalised = plain_monai.stroke_dwi(SPACING) if place.name == "MR" else None
    chain = plain_monai.chain(
        [
            LoadImaged("image", reader=PydicomReader()),
            LoadImaged("label"),
            EnsureChannelFirstd(plain_monai.KEYS),
            *(normalised or [*plain_monai.grid(SPACING), *plain_monai.ct_window()]),
        ]
    )

    def prepare() -> None:
        (label,) = (place / "labels").iterdir()
        case = chain({"image": place / "dicom", "label": label})
        (place / MONAI).mkdir(exist_ok=True)
        image, label = case["image"].as_tensor().half(), case["label"][0].as_tensor().byte()
        save_file({"image": image.contiguous(), "label": label.contiguous()}, place / MONAI / "s-0-0.safetensors")

    return prepare


def _many(place: Path, workers: int, count: int) -> float:
    """Seconds on the clock for so many studies, imports of the workers included."""
    from fedsite.dataset import pool
    from fedsite.dataset.convert import Settings

    (work,) = _works(place)()
    works = [replace(work, study=replace(work.study, id=f"e-{number}")) for number in range(count)]
    started = time.perf_counter()
    done = list(pool.run(works, Settings(_task(place), SPACING, place / "many"), workers))
    assert len(done) == count
    return time.perf_counter() - started


def _memory() -> float:
    """Peak resident bytes of this process alone (getrusage would count those of the parent that it was forked from)."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.partition("VmHWM:")[2].split()[0])


def _measure(tool: str, place: Path) -> dict[str, float]:
    import monai.transforms  # noqa: F401 - imports count apart from work

    prepare = {FEDSITE: _fedsite, MONAI: _monai}[tool](place)
    started, resident = time.process_time(), _memory()
    prepare()
    return {"cpu": time.process_time() - started, "memory": _memory() - resident}


if __name__ == "__main__":
    tool, place, workers, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    print(json.dumps({"wall": _many(place, workers, count)} if workers else _measure(tool, place)))
