"""From a folder of DICOM files to the voxels of its volume: fedsite, SimpleITK, MONAI, dcm2niix, and what NumPy takes.

Every tool reads every series in a process of its own, with one thread, from the page cache. CPU seconds are user and
system time of the process and its children from the end of its imports on; "with imports" is all of it. Memory is the
peak of the resident set, likewise. dcm2niix has no imports; it writes a .nii into the same tmpfs, the others leave an
array. fedsite scans, judges and reads, as `fedsite inspect` does. The floor reads the bytes, makes them float32 and
rescales. A tool that comes to another mean than most is marked; if it is fedsite, the bench ends with an error.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import bench_readers
from bench_readers import FEDSITE, FLOOR, ITK, MONAI, NIIX, Cost, Series
from bench_rows import Row, compare

# What a table calls it, files for one volume or one file; targets are for the first.
WAYS = ("uncompressed", "enhanced", "deflated", "RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000")

SLICES = {"CT": 140, "MR": 196}
# In a hurry: what has targets, at a size at which what every run costs does not hide the rest; the others in short.
QUICK = [("CT", 96, "uncompressed"), ("MR", 128, "uncompressed"), *(("CT", 16, way) for way in WAYS[1:])]
REPEATS = 3
MAX_MEMORY = 2.5


def rows(quick: bool) -> list[Row]:
    """Each tool against the others, for every way in which a series can come."""
    found: list[Row] = []
    plan = QUICK if quick else [(modality, slices, way) for modality, slices in SLICES.items() for way in WAYS]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        for modality, slices, way in plan:
            series = Series(Path(folder, "series"), modality, slices, way)
            # In a process of its own: a child is charged with what its parent holds when it starts.
            script = str(Path(__file__).with_name("bench_series.py"))
            subprocess.run([sys.executable, script, str(series.folder), modality, str(slices), way], check=True)
            measured = {tool: _best(tool, series, _repeats(tool, way, quick)) for tool in _tools(way, quick)}
            found += _compared(series, {tool: cost for tool, cost in measured.items() if cost})
            shutil.rmtree(series.folder)
    return found


def _tools(way: str, quick: bool) -> list[str]:
    if way == "uncompressed":
        return [FLOOR, FEDSITE, NIIX, ITK, MONAI]
    return [FEDSITE, NIIX] if quick else [FEDSITE, NIIX, ITK, MONAI]


def _repeats(tool: str, way: str, quick: bool) -> int:
    """In a hurry once what has no target, and MONAI, which takes seconds to import."""
    return 1 if quick and (tool == MONAI or way != "uncompressed") else REPEATS


def _compared(series: Series, costs: dict[str, Cost]) -> list[Row]:
    expected = statistics.median(cost.mean for cost in costs.values())
    odd = {tool for tool, cost in costs.items() if abs(cost.mean - expected) > 1e-3 * abs(expected)}
    if FEDSITE in odd:
        raise RuntimeError(f"fedsite reads other values than the rest from {series.name}")
    own = costs[FEDSITE]
    has_targets = series.way == "uncompressed"
    targets = {FLOOR: 3.0 if series.modality == "CT" else None, MONAI: 1 / 3, NIIX: 1.6} if has_targets else {}
    found = [
        compare(
            f"{series.name}, CPU",
            own.seconds,
            "s",
            f"{tool} ({cost.seconds:.3g} s{', other values' * (tool in odd)})",
            cost.seconds,
            targets.get(tool),
        )
        for tool, cost in costs.items()
        if tool != FEDSITE
    ]
    for tool, cost in costs.items():
        target = MAX_MEMORY if tool == FEDSITE and has_targets else None
        what = f"{series.name}, peak memory of {tool}"
        found.append(compare(what, cost.memory / 1e6, "MB", "the volume as float32", series.bytes / 1e6, target))
    if has_targets:
        for tool, cost in costs.items():
            what = f"{series.name}, {tool} with imports"
            found.append(compare(f"{what}, CPU", cost.seconds_with_imports, "s", FEDSITE, own.seconds_with_imports))
            memory = cost.memory_with_imports / 1e6
            found.append(compare(f"{what}, memory", memory, "MB", "the volume as float32", series.bytes / 1e6))
    return found


def _best(tool: str, series: Series, repeats: int) -> Cost | None:
    """The least of some runs: whatever else the machine does only adds. None where a tool is missing or cannot."""
    command = [sys.executable, bench_readers.__file__, tool, str(series.folder), series.modality]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    costs = []
    for _ in range(repeats):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            if tool in (FEDSITE, FLOOR):
                raise RuntimeError(done.stderr)
            print(f"{tool}, {series.name}: not read, or {tool} is not installed", file=sys.stderr)
            return None
        costs.append(Cost(**json.loads(done.stdout.splitlines()[-1])))
    return Cost(*(min(getattr(cost, field.name) for cost in costs) for field in fields(Cost)))
