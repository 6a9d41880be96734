"""One run at a time in a state folder: an advisory lock that the kernel drops when its process ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsite.errors import AnotherRun
from fedsite.files import PRIVATE_FILE, cannot_write


@contextmanager
def only_run(folder: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Holds the folder's lock. Raises AnotherRun when another run still has it after `wait_seconds`."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise cannot_write(folder / "lock", error) from error
    try:
        deadline = time.monotonic() + wait_seconds
        while not _take(descriptor):
            if time.monotonic() >= deadline:
                raise AnotherRun(
                    "Another fedsite run is at work in this state folder.", "It will finish by itself; try again later."
                )
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
