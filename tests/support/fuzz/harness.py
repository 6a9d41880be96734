"""Runs cases in worker processes, so that a codec that crashes or hangs is a finding and not the end of the run."""

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from support.fuzz.case import Case
from support.fuzz.trial import Outcome

# Longer than the gate itself waits for a codec.
HANG_SECONDS = 120.0
START_SECONDS = 60.0
_TESTS = Path(__file__).parents[2]
_BATCH = 64


class Worker:
    """One worker process; a new one takes its place when it dies."""

    def __init__(self, real: Path | None) -> None:
        self._real = "" if real is None else str(real)
        self._start()

    def run(self, case: Case) -> Outcome:
        """The outcome of a case; that the process died or did not answer in time is one too."""
        answer = self._ask(f"{case}\n", HANG_SECONDS)
        if answer:
            return Outcome(**json.loads(answer))
        return Outcome(str(case), faults=[self._replaced()])

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            with contextlib.suppress(OSError):
                stream.close()

    def _start(self) -> None:
        path = os.pathsep.join(filter(None, (str(_TESTS), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.fuzz.worker", self._real],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.names: list[str] = json.loads(self._ask("", START_SECONDS) or "[]")
        if not self.names:
            self.close()
            raise RuntimeError("The worker did not start.")

    def _ask(self, line: str, seconds: float) -> bytes:
        """Sends a line and waits for its answer; nothing when there is none."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], seconds)[0]:
                return self._process.stdout.readline()
        return b""

    def _replaced(self) -> str:
        """Why there was no answer. The next case meets a new process."""
        hangs = self._process.poll() is None and not select.select([self._process.stdout], [], [], 0)[0]
        if hangs:
            reason = f"no answer within {HANG_SECONDS:.0f} s"
        else:
            code = self._process.wait()
            reason = f"the process died: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        self.close()
        self._start()
        return reason


@contextlib.contextmanager
def workers(
    number: int, real: Path | None
) -> Iterator[tuple[list[str], Callable[[Iterable[Case]], Iterator[Outcome]]]]:
    """The names of the series, and a function that runs cases on `number` processes and gives outcomes in order."""
    crew = [Worker(real) for _ in range(number)]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in crew:
        idle.put(worker)

    def run(case: Case) -> Outcome:
        worker = idle.get()
        try:
            return worker.run(case)
        finally:
            idle.put(worker)

    def run_all(cases: Iterable[Case]) -> Iterator[Outcome]:
        waiting = iter(cases)
        while batch := list(itertools.islice(waiting, _BATCH)):
            yield from pool.map(run, batch)

    with ThreadPoolExecutor(number) as pool:
        try:
            yield crew[0].names, run_all
        finally:
            for worker in crew:
                worker.close()
