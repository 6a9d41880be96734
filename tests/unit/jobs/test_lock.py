"""One run at a time, and no lock outlives its process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedsite.errors import CannotWrite, TryAgainLater
from fedsite.jobs.lock import only_run

HOLDER = """
import sys, time
from pathlib import Path
from fedsite.jobs.lock import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.fault(
    part="site",
    what="two crons at once",
    where="a second run, while one is at work",
    promised="told to come back (exit 75); nothing is done twice",
)
def test_a_second_run_is_told_to_come_back(tmp_path: Path) -> None:
    with only_run(tmp_path), pytest.raises(TryAgainLater, match="Another fedsite run") as refused, only_run(tmp_path):
        pass
    assert refused.value.exit_code == 75
    with only_run(tmp_path):
        pass


def test_the_lock_is_dropped_on_an_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), only_run(tmp_path):
        raise RuntimeError
    with only_run(tmp_path):
        pass


@pytest.mark.fault(
    part="site",
    what="a lock is left by a run that was killed",
    where="SIGKILL while it is held",
    promised="the kernel has dropped it: nobody waits",
)
def test_a_killed_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(TryAgainLater), only_run(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with only_run(tmp_path):
        pass


def test_a_run_may_wait_for_the_other(tmp_path: Path) -> None:
    def hold() -> None:
        with only_run(tmp_path):
            held.set()
            time.sleep(0.3)

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with only_run(tmp_path, wait_seconds=30):
        pass
    other.join()


def test_the_wait_has_an_end(tmp_path: Path) -> None:
    started = time.monotonic()
    with only_run(tmp_path), pytest.raises(TryAgainLater), only_run(tmp_path, wait_seconds=0.3):
        pass
    assert 0.3 <= time.monotonic() - started < 10


def test_the_lock_file_is_private_and_not_inherited(tmp_path: Path) -> None:
    with only_run(tmp_path):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
        descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
        holding = [one for one in descriptors if _target(one) == str(tmp_path / "lock")]
        assert [os.get_inheritable(one) for one in holding] == [False]


def test_a_folder_that_takes_no_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite), only_run(tmp_path / "absent"):
        pass


def _target(descriptor: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return ""
