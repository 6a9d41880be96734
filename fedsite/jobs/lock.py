"""One run at a time in a state folder: an advisory lock that the kernel drops when its process ends.

So a lock that is held is held by a process that lives, and the file may stay. It says who took it last, and when.
"""

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fedsite.errors import AnotherRun
from fedsite.files import PRIVATE_FILE, cannot_write

_SIGNATURE = re.compile(r"process \d+ on \S+, since [\d:-]+ [\d:]+ UTC")
LONGEST_SIGNATURE = 400


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
                    f"Another fedsite run is at work in this state folder{_holder(descriptor)}.",
                    "It will finish by itself; try again later.",
                )
            time.sleep(0.2)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    """Says who holds the lock, for whoever comes in vain; the lock itself is as good on a full disk."""
    text = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, LONGEST_SIGNATURE, 0).decode(errors="replace")
    return f": {text}" if _SIGNATURE.fullmatch(text) else ""
