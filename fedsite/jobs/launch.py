"""Training on several devices: one worker process for each, and this one listens to them.

Lock, state, ledger, gate and wire stay in this process.
"""

from collections.abc import Sequence
from multiprocessing import Pipe, set_forkserver_preload
from typing import TYPE_CHECKING

from fedsite.errors import FedsiteError
from fedsite.jobs import worker
from fedsite.jobs.local_work import Progress
from fedsite.jobs.worker import Broken, Task

if TYPE_CHECKING:
    from fedsite.training.elastic import WorkersLost

IMPORTED_ONCE = ("torch", "monai.networks.nets", "monai.losses", "fedsite.jobs.worker")


class WorkerBroken(FedsiteError):
    """A worker process met what nobody foresaw. Its text is withheld: it may hold a path."""

    code = "worker-broken"


def train(task: Task, devices: Sequence[str], machines: int, meeting: str, progress: Progress) -> None:
    """Trains with one process for each device (`cuda:0`, `cpu`) here, and those of the other machines.

    Raises what a worker raised, WorkersLost when one died, WorkerBroken; the last checkpoint is kept.
    """
    from fedsite.training import elastic

    hearing, voice = Pipe(duplex=False)
    heard: list[FedsiteError | Broken] = []

    def hear() -> None:
        while hearing.poll():
            said = hearing.recv()
            if isinstance(said, tuple):
                progress(*said)
            else:
                heard.append(said)

    set_forkserver_preload(list(IMPORTED_ONCE))
    layout = elastic.Layout(len(devices), machines, meeting)
    with hearing, voice:
        try:
            elastic.run(layout, worker.work, (tuple(devices), machines == 1, task.to_bytes(), voice), hear)
        except elastic.WorkersLost as lost:
            raise _cause(heard, lost) from None


def _cause(heard: list[FedsiteError | Broken], lost: "WorkersLost") -> FedsiteError:
    """An error of fedsite's own goes before the end of a process, and that before what the others made of it."""
    errors = [said for said in heard if isinstance(said, FedsiteError)]
    broken = [said for said in heard if isinstance(said, Broken)]
    if errors:
        return errors[0]
    if broken and not lost.killed:
        return WorkerBroken(
            f"A training process broke off: {broken[0].kind} at {broken[0].place}.",
            "Run again with one device (--devices 0): if that works, the devices do not reach each other.",
        )
    return lost
