"""A training that is told to stop, by systemd, a shutdown or a person: it ends between two steps, or at once.

SIGTERM and SIGINT in the middle of a step would leave weights of which half have moved. So while steps are taken a
signal waits for the end of the step, where the training is kept as it is; before the first one and after the last, and
when it comes a second time, it is heard at once. A step that takes too long (on a CPU a single call of torch's may) is
not waited for: then the process ends, as by a kill, and what was kept last is what the next run goes on from.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedsite.jobs.progress import Progress

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SECONDS = 8.0
"""How long a step is waited for: who sends SIGTERM is promised an end within ten seconds."""


@contextmanager
def between_steps(progress: Progress) -> Iterator[Progress]:
    """Lets signals wait for the end of a step: what is given is to be told of each, and raises what they raise."""
    if threading.current_thread() is not threading.main_thread():
        yield progress  # signals are heard in the main thread alone
        return
    stop = _Stop(progress)
    with _watched(stop):
        try:
            yield stop.told
        finally:
            stop.give_back()


class _Stop:
    """What is known of a signal that waits."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stepping = False
        self._waiting: int | None = None
        self._kept = {number: signal.signal(number, self._heard) for number in SIGNALS}
        self.over = threading.Event()

    def told(self, done: int, total: int, note: str = "") -> None:
        """Progress, after a step: what has waited is heard here."""
        self._stepping = done < total
        if self._waiting is not None:
            self._raise(self._waiting)
        self._progress(done, total, note)

    def give_back(self) -> None:
        """Signals mean again what they meant before."""
        for number, handler in self._kept.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self._waiting is not None or not self._stepping:
            self._raise(number)
        self._waiting = number

    def _raise(self, number: int) -> None:
        self.give_back()
        signal.raise_signal(number)


@contextmanager
def _watched(stop: _Stop) -> Iterator[None]:
    """Ends the process where a signal has waited too long: Python itself is not asked before torch's call returns."""
    hearing, voice = socket.socketpair()
    voice.setblocking(False)
    before = signal.set_wakeup_fd(voice.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_end_in_time, args=(hearing, stop.over), name="stop", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        stop.over.set()
        voice.close()
        watch.join()
        hearing.close()


def _end_in_time(hearing: socket.socket, over: threading.Event) -> None:
    while number := hearing.recv(1):
        if number[0] in SIGNALS and not over.wait(SECONDS):
            os.write(2, b"Stopped in the middle of a step; the next run goes on from the last checkpoint.\n")
            os._exit(128 + number[0])
