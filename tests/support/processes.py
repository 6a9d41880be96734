"""Processes of the tests' own making, most of them forked from one that has imported torch and MONAI once.

Those imports take five of the six seconds of a short command, and the suite runs more than a hundred of them. All
else is as from a shell: the installed script, a process and a session of its own, its own environment and streams, an
exit code or the signal that ended it. Where coverage is measured, and where FEDSITE_COMMAND names another command,
each process starts by itself; so do those of the demo and of the tests in a terminal.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# scripts/test_gpu names another command where fedsite is not installed.
FEDSITE = os.environ.get("FEDSITE_COMMAND") or str(Path(sys.executable).with_name("fedsite"))
TRACING = "COVERAGE_PROCESS_CONFIG"
SITE = (
    *("torch._dynamo", "monai.networks.nets", "monai.losses", "monai.transforms", "fedsite.cli.main"),
    *(
        "fedsite.jobs.round.participate",
        "fedsite.jobs.data.prepare",
        "fedsite.jobs.models.predict",
        "fedsite.jobs.identity.enroll",
        "fedsite.jobs.unattended.watch",
    ),
    *("httpcore", "jinja2"),
)
SERVER = ("fedsite.cli.main", "fedsite.server.web.run", "fedsite.server.web.app", "sqlalchemy.dialects.sqlite")
"""What a parent of commands has imported, and what one of servers."""
Modules = tuple[str, ...]
FAKED_TIME = (
    *("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE"),
    *("FAKETIME_DONT_FAKE_MONOTONIC", "FAKETIME_FORCE_MONOTONIC_FIX", "NO_FAKE_STAT"),
)
FOR_PARENTS = ("PATH", "PYTHONPATH", *FAKED_TIME)
"""What a parent finds in its environment. Where time is made up (scripts/soak), it must be so from its start."""
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""How a parent gets its memory: in pages of 2 MiB, where the system has them, so that a fork has fewer to copy."""
LONGEST_REQUEST = 1 << 16
DESCRIPTORS = 1 << 10


@dataclass(frozen=True)
class Answer:
    """How a process ended: its exit code (or minus the signal's number) and both streams."""

    code: int
    stdout: str
    stderr: str
    process: int

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


class Running:
    """A process that a parent has forked, and that goes on by itself: what tests need of a Popen."""

    def __init__(self, script: Sequence[str], environment: Mapping[str, str], streams: Sequence[int], parent: Modules):
        self._mine, theirs = socket.socketpair()
        with theirs:
            request = json.dumps([list(script), dict(environment)]).encode()
            socket.send_fds(_parent(parent), [request], [theirs.fileno(), *streams])
        self._code: int | None = None
        self.pid = self._number()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal's number. Raises TimeoutError."""
        if self._code is None:
            self._mine.settimeout(timeout)
            self._code = self._number()
            self._mine.close()
        return self._code

    def poll(self) -> int | None:
        """The same if it has ended."""
        if self._code is None and not select.select([self._mine], [], [], 0)[0]:
            return None
        return self.wait()

    def send_signal(self, number: int) -> None:
        """To it, if it is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            if not (digit := self._mine.recv(1)):
                raise EOFError("the parent of this process has ended")
            line += digit
        return int(line)


Process = Running | subprocess.Popen[bytes]


def run(
    script: Sequence[str],
    environment: Mapping[str, str],
    stdin: str = "",
    timeout: float = 120,
    parent: Modules = SITE,
) -> Answer:
    """Runs a Python script with its arguments, as cron would: in `/`, in an own session, without a terminal.

    Raises TimeoutError, once the process is killed.
    """
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
        streams[0].write(stdin)
        streams[0].seek(0)
        process = begin(script, environment, [stream.fileno() for stream in streams], parent)
        try:
            code = process.wait(timeout)
        except (TimeoutError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise TimeoutError(f"{script} took more than {timeout} s") from None
        for stream in streams[1:]:
            stream.seek(0)
        return Answer(code, streams[1].read(), streams[2].read(), process.pid)


def begin(script: Sequence[str], environment: Mapping[str, str], streams: Sequence[int], parent: Modules) -> Process:
    """The same, under way: with these descriptors as its streams. `parent` is the one that it is forked from."""
    if not environment.get(TRACING) and "FEDSITE_COMMAND" not in os.environ:
        return Running(script, environment, streams, parent)
    command = script if script[0] == FEDSITE else [sys.executable, *script]
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        command, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, cwd="/"
    )


_parents: dict[Modules, tuple[socket.socket, "subprocess.Popen[bytes]"]] = {}
_one_at_a_time = threading.Lock()


def _parent(modules: Modules) -> socket.socket:
    """Where this test process asks for its processes. What answers there ends with it."""
    with _one_at_a_time:
        if modules not in _parents:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                # -P: or `site` would be the module beside this one.
                command = [sys.executable, "-P", __file__, str(theirs.fileno()), *modules]
                kept = {name: os.environ[name] for name in FOR_PARENTS if name in os.environ}
                environment = {"OMP_NUM_THREADS": "1"} | LARGE_PAGES | kept
                process = subprocess.Popen(
                    command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
            _parents[modules] = mine, process
            atexit.register(_stop, mine, process)
        return _parents[modules][0]


def _stop(requests: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    requests.close()
    process.wait()


def _serve(requests: socket.socket, modules: Sequence[str]) -> None:
    """Forks one process for each request, and tells who asked for it how it ended."""
    for module in modules:
        __import__(module)
    gc.collect()
    gc.freeze()
    running: dict[int, tuple[int, int]] = {}  # by its pidfd: a process, and where its end is awaited
    watched = select.poll()
    watched.register(requests, select.POLLIN)
    while True:
        for ready, _ in watched.poll():
            if ready in running:
                watched.unregister(ready)
                _tell_end(*running.pop(ready))
                os.close(ready)
                continue
            request, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 4)
            if not request:
                os._exit(0)
            answers, *streams = descriptors
            process = os.fork()
            if process == 0:
                script, environment = json.loads(request)
                _become(script, environment, streams)
            for descriptor in streams:
                os.close(descriptor)
            os.write(answers, f"{process}\n".encode())
            ended = os.pidfd_open(process)
            running[ended] = process, answers
            watched.register(ended, select.POLLIN)


def _tell_end(process: int, answers: int) -> None:
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(OSError):  # nobody waits for it any more
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os.close(answers)


def _become(script: list[str], environment: dict[str, str], streams: Sequence[int]) -> NoReturn:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, DESCRIPTORS)
    os.setsid()
    os.chdir("/")
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = script
    _end(_exit_code(script[0]))


def _exit_code(script: str) -> int:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - as Python shows it
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """What Python does at its end, but for taking every module apart: half a second for torch, to no effect."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
