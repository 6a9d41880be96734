"""Rounds of whole processes: `fedsite train-round`, as sites run it."""

import resource
import statistics
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from commands import EXECUTABLE, Fedsite, StepFailed, environment

from transfer.processes import Peaks, watching
from transfer.setting import Coordinator, Model

AT_ONCE = 8


@dataclass(frozen=True)
class Whole:
    """Medians of a round's seconds and of the CPU seconds of its sites; peak memory of one site and of the server."""

    seconds: float
    cpu: float
    site_bytes: int
    server_bytes: int


def play_whole(coordinator: Coordinator, model: Model, sites: Sequence[Fedsite], rounds: int) -> Whole:
    """Rounds of those sites, at most 8 processes at once, each from the first one's start until the next model."""
    seconds, cpu, memory = [], [], 0
    with coordinator.server() as pid, watching() as peaks:
        peaks.watch(pid)
        first = coordinator.open_rounds(model, len(sites), rounds)
        for number in range(first, first + rounds):
            before, began = _children(), time.perf_counter()
            with ThreadPoolExecutor(min(len(sites), AT_ONCE)) as pool:
                memory = max(memory, *pool.map(lambda site: _train_round(site, peaks), sites))
            coordinator.wait_for(number)
            seconds.append(time.perf_counter() - began)
            cpu.append(_children() - before)
        peaks.look()
        return Whole(statistics.median(seconds), statistics.median(cpu), memory, peaks.of(pid))


def _train_round(site: Fedsite, peaks: Peaks) -> int:
    """Runs it to its end; gives its peak memory."""
    process = subprocess.Popen(
        [str(EXECUTABLE), "train-round", *site.options],
        cwd=site.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks.watch(process.pid)
    _, said = process.communicate()
    if process.returncode:
        raise StepFailed(f"{site.shown('train-round')} ended with exit code {process.returncode}\n{said}")
    return peaks.of(process.pid)


def _children() -> float:
    """CPU seconds of the processes that have ended, the server of this moment not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
