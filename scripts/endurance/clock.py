"""Time that is made up: all processes of a federation read one clock, which can be put forward by months.

libfaketime (Debian: faketime) answers in the system's place. Only the time of day is made up; how long something takes
is measured as always.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from fedsite.files import write_atomically

LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"
FILE = "FAKETIME_TIMESTAMP_FILE"
_MENDED = Path(__file__).with_name("faked_time")


class Clock:
    """The clock of this process and of all that it starts: a file says how far it is ahead of the machine's."""

    def __init__(self) -> None:
        self._file, self._ahead = Path(os.environ[FILE]), timedelta()

    def forward(self, by: timedelta) -> None:
        """Puts it forward, for all processes at once, those at work too."""
        self._ahead += by
        _write(self._file, self._ahead)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that goes by this clock."""
        return _variables(self._file)


def is_made_up() -> bool:
    """Whether this process goes by such a clock."""
    return FILE in os.environ


def again_by_made_up_time(command: Sequence[str]) -> int:
    """Runs a command by such a clock; gives its exit code. Raises FileNotFoundError where there is no libfaketime."""
    if not any(Path("/").glob(LIBRARY)):
        raise FileNotFoundError("libfaketime is not here (on Debian: apt install faketime)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ahead"
        _write(file, timedelta())
        process = subprocess.Popen(command, env=os.environ | _variables(file))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the other one tidies up
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        code = process.wait()
        _tidy()
        return code


def _tidy() -> None:
    """Removes what libfaketime leaves of every process that was killed: a semaphore and a page of shared memory."""
    for path in Path("/dev/shm").glob("*faketime_s??_*"):
        if not Path("/proc", path.name.rpartition("_")[2]).exists():
            with suppress(OSError):  # another user's
                path.unlink()


def _write(file: Path, ahead: timedelta) -> None:
    write_atomically(file, f"+{ahead.total_seconds():.0f}".encode())


def _variables(file: Path) -> dict[str, str]:
    paths = [str(_MENDED), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "LD_PRELOAD": str(next(Path("/").glob(LIBRARY))),
        FILE: str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # By the default of 0.9.10, Python's waits for its global lock end at once: two threads get hardly anything done
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
    }
