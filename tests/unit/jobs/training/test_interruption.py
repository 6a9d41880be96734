"""Signals in the middle of a training: heard between two steps, or at once where there is nothing to keep."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from fedsite.jobs.progress import silent
from fedsite.jobs.training import interruption
from fedsite.jobs.training.interruption import between_steps

STUCK = """
import ctypes, signal
from fedsite.jobs.training import interruption

def stop(number, frame):
    raise SystemExit(99)

signal.signal(signal.SIGTERM, stop)
interruption.SECONDS = 0.2
with interruption.between_steps(lambda done, total, note="": None) as told:
    # Another thread takes the signal: so this one notices nothing of it within a call of C, which torch's may be.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    told(1, 9)
    print("stepping", flush=True)
    ctypes.CDLL(None).sleep(120)
"""


class Told(Exception):
    """What the command's own handler of SIGTERM raises."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Told

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_in_a_step_it_waits_for_the_end_of_the_step() -> None:
    seen: list[int] = []

    def train() -> None:
        with between_steps(lambda done, total, note="": seen.append(done)) as told:
            told(1, 9)
            terminate()
            seen.append(-1)  # the rest of the step
            told(2, 9)

    with pytest.raises(Told):
        train()
    assert seen == [1, -1]


@pytest.mark.parametrize(("done", "signals"), [(0, 1), (9, 1), (1, 2)])
def test_before_and_after_all_steps_and_who_insists_is_heard_at_once(done: int, signals: int) -> None:
    heard_late = False

    def train() -> None:
        nonlocal heard_late
        with between_steps(silent) as told:
            if done:
                told(done, 9)
            for _ in range(signals):
                terminate()
            heard_late = True

    with pytest.raises(Told):
        train()
    assert not heard_late


def test_afterwards_signals_mean_what_they_meant() -> None:
    before = [signal.getsignal(one) for one in interruption.SIGNALS]
    with between_steps(silent) as told:
        told(1, 1)
    assert [signal.getsignal(one) for one in interruption.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_elsewhere_than_in_the_main_thread_it_only_passes_on() -> None:
    seen: list[int] = []

    def work() -> None:
        with between_steps(lambda done, total, note="": seen.append(done)) as told:
            told(1, 2)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]


def test_a_step_without_end_is_not_waited_for() -> None:
    command = [sys.executable, "-c", STUCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "stepping\n"
        process.send_signal(signal.SIGTERM)
        try:
            _, said = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the next run goes on from the last checkpoint" in said
