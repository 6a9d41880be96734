"""What processes take: memory and CPU time of a process and all its children, as Linux counts them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE_SECONDS = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class Peaks:
    """Peak memory of process trees: the largest resident set of each process (VmHWM, kept by the kernel), added up.

    Read every 50 ms, so what a process takes in its last moments is missed. Pages that processes share count in each.
    """

    def __init__(self) -> None:
        self._roots: set[int] = set()
        self._peaks: dict[int, dict[int, int]] = {}
        self._lock = threading.Lock()

    def watch(self, pid: int) -> None:
        """From now on."""
        with self._lock:
            self._roots.add(pid)
            self._peaks[pid] = {}

    def of(self, pid: int) -> int:
        """The peak of that process and its children so far, in bytes."""
        with self._lock:
            return sum(self._peaks[pid].values())

    def look(self) -> None:
        """Reads all of them once."""
        with self._lock:
            for root in self._roots:
                for pid in _tree(root):
                    self._peaks[root][pid] = max(self._peaks[root].get(pid, 0), _largest(pid))


@contextmanager
def watching() -> Iterator[Peaks]:
    """Looks again and again while the block runs."""
    peaks, over = Peaks(), threading.Event()

    def look() -> None:
        while not over.wait(PAUSE_SECONDS):
            peaks.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def cpu_seconds(pid: int) -> float:
    """Of a process and of those children that it has waited for: user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def _tree(pid: int) -> list[int]:
    try:
        children = [Path(task, "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []  # it has ended
    return [pid, *(one for some in children for child in some for one in _tree(int(child)))]


def _largest(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
