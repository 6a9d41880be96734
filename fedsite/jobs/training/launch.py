"""Training on several devices: one worker process for each, and this one listens to them.

Lock, state, ledger, gate and wire stay in this process.
"""

from collections.abc import Sequence
from multiprocessing import Pipe, set_forkserver_preload
from typing import Any

from fedsite.errors import FedsiteError, WorkersLost
from fedsite.jobs import devices
from fedsite.jobs.progress import Progress
from fedsite.jobs.training import interruption, worker
from fedsite.jobs.training.worker import Broken, Task
from fedsite.site.config import TrainingSettings
from fedsite.wire.plans import DpSgd

# torch._dynamo, which every optimiser imports, takes longer than the rest together.
IMPORTED_ONCE = ("torch", "torch._dynamo", "monai.networks.nets", "monai.losses", "fedsite.jobs.training.worker")


class WorkerBroken(FedsiteError):
    """A worker process met what nobody foresaw. Its text is withheld: it may hold a path."""

    code = "worker-broken"


def train(settings: TrainingSettings, task: Task, progress: Progress) -> dict[str, Any] | None:
    """Trains on one device in this process, or on several with a process for each; gives what the training was.

    Under dp-sgd it is one, the first, since a patient's gradient is made in one piece; the record says so. Raises as
    `local_work.train` does; where there are several, WorkersLost when one dies, and WorkerBroken. What the
    last checkpoint holds is kept, and the next call goes on from there. In this process a signal, and what `progress`
    raises, ends it between two steps, where it is kept; several processes are ended where they are.
    """
    if task.data is None:
        return worker.train(task, "cpu", progress)  # no step is taken, and torch is not imported
    if isinstance(task.plan.privacy, DpSgd):
        return _on_the_first(settings, task, progress)
    patches = task.plan.local.batch_size * task.plan.local.accumulation
    if min(len(settings.devices), patches) < 2 and settings.machines == 1:
        return _here(settings, task, progress)
    names = devices.every(settings)
    record = side_by_side(names[:patches], task, progress, settings.machines, settings.meeting)
    if record and len(names) > patches:
        record["events"].append(f"{patches} of {len(names)} devices computed: a batch has no more patches")
    return record


def _on_the_first(settings: TrainingSettings, task: Task, progress: Progress) -> dict[str, Any] | None:
    record = _here(settings, task, progress)
    idle = [f"{len(settings.devices) - 1} more devices"] if len(settings.devices) > 1 else []
    idle += [f"{settings.machines - 1} more machines"] if settings.machines > 1 else []
    if record and idle:
        record["events"].append(f"dp-sgd computes on one device: {' and '.join(idle)} had nothing to do")
    return record


def _here(settings: TrainingSettings, task: Task, progress: Progress) -> dict[str, Any] | None:
    with interruption.between_steps(progress) as told:
        return worker.train(task, devices.one(settings), told)


def side_by_side(
    names: Sequence[str], task: Task, progress: Progress, machines: int = 1, meeting: str = ""
) -> dict[str, Any] | None:
    """Trains with one process for each device (`cuda:0`, `cpu`) here, and those of the other machines."""
    from fedsite.training import elastic

    hearing, voice = Pipe(duplex=False)
    heard: list[dict[str, Any] | FedsiteError | Broken] = []

    def hear() -> None:
        while hearing.poll():
            said = hearing.recv()
            if isinstance(said, tuple):
                progress(*said)
            elif said is not None:
                heard.append(said)

    set_forkserver_preload(list(IMPORTED_ONCE))
    layout = elastic.Layout(len(names), machines, meeting)
    with hearing, voice:
        try:
            elastic.run(layout, worker.work, (tuple(names), machines == 1, task.to_bytes(), voice), hear)
        except WorkersLost as lost:
            raise _cause(heard, lost) from None
    return next((said for said in heard if isinstance(said, dict)), None)


def _cause(heard: Sequence[object], lost: WorkersLost) -> FedsiteError:
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
