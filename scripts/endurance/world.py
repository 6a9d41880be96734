"""A federation that is made to suffer: a real server process, sites by the installed command, and lines that break."""

import os
import signal
import statistics
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

from support import processes
from support.federation import Server
from support.processes import FEDSITE
from support.relay import relayed, resetting
from support.site import Site

from endurance.chance import SIGNALS, Fault, ServerFault
from endurance.coordinator import Stuck
from fedsite.wire.enrolment import Invitation

COMMAND = (FEDSITE, "--quiet", "train-round")
"""What a schedule runs."""
AT_ONCE = 4
"""How many sites are at work at the same time."""
IMPORTED = (
    *("fedsite.cli.main", "fedsite.jobs.round.participate", "fedsite.jobs.unattended.watch"),
    *("fedsite.jobs.identity.enroll", "fedsite.tasks.stroke_dwi", "scipy.special", "httpcore", "jinja2", "_strptime"),
)
"""What the process has imported that all runs are forked from: most of the time of one without training.

$FEDSITE_COMMAND names the command that is started from nothing instead (`support.processes`).
"""
FIRST_GUESS_SECONDS = 1.0
REMEMBERED = 25
LONGEST_RUN_SECONDS = 600.0


@dataclass(frozen=True)
class Member:
    """A site of the federation. `breaks`: how many bytes each of its next connections carries until it is cut."""

    name: str
    site: Site
    breaks: deque[int]


@dataclass(frozen=True)
class Run:
    """One run of a site's scheduled command, and how it ended. `code`: its exit code, or minus a signal's number."""

    turn: int
    site: str
    fault: str
    code: int
    seconds: float
    said: str
    server_disturbed: bool

    @property
    def ended_early(self) -> bool:
        """It did not get to its end; the next one goes on from where it was."""
        return self.code not in (0, 80, 81)


class World:
    """The server, the sites and what is between them."""

    def __init__(self, server: Server, variables: Mapping[str, str], scratch: Path) -> None:
        """`variables`, and `scratch` as TMPDIR, are in the environment of all that sites run."""
        self.server, self.scratch = server, scratch
        self._environment = {**variables, "TMPDIR": str(scratch)}
        self.members: list[Member] = []
        self._lines = ExitStack()
        self.restarts = 0
        self._usual: deque[float] = deque([FIRST_GUESS_SECONDS], REMEMBERED)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_error: object) -> None:
        self._lines.close()
        self.server.stop()

    def join(self, name: str, home: Path, epsilon: float) -> None:
        """Sets a site up, with its budget, and enrols it by a line of its own."""
        site, breaks = Site(home, self._environment, IMPORTED), deque[int]()
        port = self._lines.enter_context(relayed(self.server.port, resetting(iter(lambda: _next(breaks), None))))
        site.init(epsilon)
        invitation = Invitation.decode(self.server.invite(name))
        site.enroll(replace(invitation, server=f"https://localhost:{port}").encode())
        self.members.append(Member(name, site, breaks))

    def turn(self, number: int, coming: Sequence[tuple[Member, Fault]], fault: ServerFault | None = None) -> list[Run]:
        """Lets sites run side by side, each with its fault, while something may happen to the server."""
        if not coming:
            return []
        disturbance = threading.Thread(target=self._disturb, args=(fault,))
        disturbance.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            begun = [pool.submit(self._come, number, member, its_own, fault) for member, its_own in coming]
            runs = [run for one in begun for run in one.result()]
        disturbance.join()
        return runs

    def _come(self, turn: int, member: Member, fault: Fault, disturbed: ServerFault | None) -> list[Run]:
        member.breaks.extend(fault.breaks)

        def run() -> Run:
            with TemporaryFile("w+") as said, Path(os.devnull).open() as nothing:
                began, streams = time.monotonic(), [one.fileno() for one in (nothing, said, said)]
                process = processes.begin(COMMAND, member.site.variables, streams, IMPORTED)
                with _signalled(process, fault, statistics.median(self._usual)):
                    code = _end_of(process, member.name)
                seconds = time.monotonic() - began
                said.seek(0)
                return Run(turn, member.name, fault.kind, code, seconds, said.read().strip(), disturbed is not None)

        with ThreadPoolExecutor(2) as pool:
            runs = [one.result() for one in [pool.submit(run) for _ in range(1 + (fault.kind == "twice"))]]
        member.breaks.clear()
        if fault.kind == "none" and disturbed is None and runs[0].code == 0:
            self._usual.append(runs[0].seconds)
        return runs

    def _disturb(self, fault: ServerFault | None) -> None:
        if fault is not None:
            time.sleep(fault.moment * statistics.median(self._usual))
            self.server.stop(fault.how)
            self.server.start()
            self.restarts += 1


def _end_of(process: processes.Running, site: str) -> int:
    try:
        return int(process.wait(LONGEST_RUN_SECONDS))
    except (TimeoutError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        raise Stuck(f"a run of {site} did not end within {LONGEST_RUN_SECONDS:.0f} seconds") from None


def _next(breaks: deque[int]) -> int:
    """Where the next connection is cut; far away when none is to be."""
    return breaks.popleft() if breaks else 1 << 40


@contextmanager
def _signalled(process: processes.Running, fault: Fault, usual: float) -> Iterator[None]:
    """Sends a fault's signal to a process at its moment, if that has not ended by then."""
    number = SIGNALS.get(fault.kind)
    if number is None:
        yield
        return
    try:
        handle = os.pidfd_open(process.pid)  # its number may be another process's by then
    except ProcessLookupError:
        yield
        return

    def send() -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)

    timer = threading.Timer(fault.moment * usual, send)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        os.close(handle)
