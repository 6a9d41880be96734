"""Several processes on one machine or more, started, watched and ended together by torch's elastic launcher."""

import logging
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed import DistError, FileStore  # type: ignore[attr-defined]  # torch declares no exports
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, ProcessFailure, SignalException, Std
from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousStoreInfo
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from fedsite.errors import Interrupted, WorkersLost

NAME = "fedsite"
SECONDS_TO_END = 5
MEETING_SECONDS = 600
# An agent takes these over, to end its workers before it ends itself.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True)
class Layout:
    """How many processes run here; on how many machines in all; and where those meet: `host:port` of the first one.

    On a single machine they meet in a file.
    """

    processes: int
    machines: int = 1
    meeting: str = ""


def run(
    layout: Layout, entry: Callable[..., None], args: tuple[Any, ...], hear: Callable[[], None] = lambda: None
) -> None:
    """Runs `entry(url, *args)` in every process: `url` is where the process group meets. Returns when all are done.

    The processes come from multiprocessing's fork server: they inherit neither memory nor open files. `hear` is called
    ten times a second meanwhile, and once at the end; what it raises ends them. What they print goes nowhere.

    Raises WorkersLost when one ends otherwise than well. When this process is interrupted, they end first.
    """
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder, _quiet(), _signals_kept():
        alone = layout.machines == 1
        url = f"file://{folder}/meeting?rank=${{local_rank}}&world_size={layout.processes}" if alone else "env://"
        specification = WorkerSpec(
            role=NAME,
            local_world_size=layout.processes,
            rdzv_handler=_Alone(f"{folder}/store") if alone else _over_tcp(layout),
            entrypoint=entry,
            args=(url, *args),
            max_restarts=0,
        )
        logs = DefaultLogsSpecs(str(Path(folder, "logs")), redirects=Std.ALL)
        agent = _Agent(
            specification,
            logs,
            "forkserver",
            exit_barrier_timeout=MEETING_SECONDS,
            shutdown_timeout=SECONDS_TO_END,
            hear=hear,
        )
        try:
            result = agent.run()
        except DistError:
            raise WorkersLost(
                f"The {layout.machines} machines of this training did not meet, or lost each other.",
                "Start the others within ten minutes, and see that they reach training.meeting.",
            ) from None
        hear()
        if result.is_failed():
            raise _lost(min(result.failures.items(), key=lambda found: found[1].timestamp), layout)


def _over_tcp(layout: Layout) -> StaticTCPRendezvous:
    """This machine is the first: its agent holds the store in which all of them meet."""
    host, _, port = layout.meeting.rpartition(":")
    return StaticTCPRendezvous(host, int(port), 0, layout.machines, NAME, MEETING_SECONDS)


def _lost(failed: tuple[int, ProcessFailure], layout: Layout) -> WorkersLost:
    rank, failure = failed
    how = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    mend = "Run the command again: it goes on from the last checkpoint."
    if failure.exitcode == -signal.SIGKILL:
        mend = f"The system may have been short of memory. {mend}"
    return WorkersLost(f"Training process {rank + 1} of {layout.processes} {how}.", mend, failure.exitcode < 0)


class _Alone(StaticTCPRendezvous):
    """A rendezvous with oneself, in a file: torch's own would listen on every interface."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", 0, 0, 1, NAME, MEETING_SECONDS)
        self.path = path

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(FileStore(self.path, 1), 0, 1, RendezvousStoreInfo("localhost", 0))


class _Agent(LocalElasticAgent):
    """An agent that listens whenever it looks after its workers."""

    def __init__(self, *args: Any, hear: Callable[[], None], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._hear = hear

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._hear()
        result: RunResult = super()._monitor_workers(worker_group)
        return result


@contextmanager
def _signals_kept() -> Iterator[None]:
    """What a signal meant before the agent, it means again once the agent has ended its workers because of it."""
    kept = {one: signal.getsignal(one) for one in SIGNALS}
    stopped = None
    try:
        yield
    except SignalException as error:
        stopped = error.sigval
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)
    if stopped is not None:
        signal.raise_signal(stopped)
        raise Interrupted("The training was stopped.", "Run the command again: it goes on from the last checkpoint.")


@contextmanager
def _quiet() -> Iterator[None]:
    """The launcher's own log says in many lines, with paths, what becomes one error."""
    loggers = [logging.getLogger(name) for name in ("torch.distributed.elastic", "torch.multiprocessing")]
    kept = [(logger, logger.propagate) for logger in loggers]
    silence = logging.NullHandler()
    for logger in loggers:
        logger.addHandler(silence)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in kept:
            logger.removeHandler(silence)
            logger.propagate = propagate
