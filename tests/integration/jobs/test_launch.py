"""Training in several processes: the same weights as in one, and an end in every case."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from support.training_task import plan_of, task_at

from fedsite.errors import DataNotFit, WorkersLost
from fedsite.jobs.training import launch, worker
from fedsite.jobs.training.local_work import kept_beside
from fedsite.jobs.training.worker import Task
from fedsite.wire import payload

STEPS = 4
TWO = ("cpu", "cpu")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A small training, kept ten times a second."""
    return task_at(tmp_path_factory.mktemp("site"), STEPS, checkpoint_seconds=0.1)


class Told(list[tuple[int, int]]):
    """Keeps what a training tells of its steps."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.append((done, total))


def descriptors(process: int) -> set[str]:
    """What a process has open: paths, and `socket:[NUMBER]`."""
    return {str(one.readlink()) for one in Path(f"/proc/{process}/fd").iterdir()}


def listening() -> dict[str, str]:
    """The address of every listening TCP socket of this machine, by the name that a process has it open under."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {f"socket:[{row[9]}]": row[1].partition(":")[0] for row in rows if row[3] == "0A"}


def test_two_processes_give_the_weights_of_one(task: Task) -> None:
    worker.train(task, "cpu", Told())
    alone = {name: np.array(value) for name, value in payload.tensors_of(task.destination).items()}
    task.destination.unlink()
    told = Told()

    record = launch.side_by_side(TWO, task, told)

    trained = payload.tensors_of(task.destination)
    assert trained.keys() == alone.keys()
    for name, value in alone.items():
        np.testing.assert_allclose(trained[name], value, atol=2e-6)
    start = payload.tensors_of(task.model)
    assert max(np.abs(start[name] - value).max() for name, value in alone.items()) > 1e-3, "nothing was learned"
    assert told == [(number, STEPS) for number in range(1, STEPS + 1)], "the leader alone tells of the steps"
    assert record is not None
    assert record["steps"] == STEPS
    assert not multiprocessing.active_children()


@pytest.mark.fault(
    part="training",
    what="one of several training processes dies",
    where="SIGKILL in the middle of a training",
    promised="the others end at once (exit 75), progress is kept",
)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_it_by_name_and_the_next_run_goes_on(task: Task, killed: int) -> None:
    longer = task.model_copy(update={"plan": plan_of(60), "seed": killed})
    kept = kept_beside(task.destination)
    struck: list[int] = []

    def progress(done: int, total: int, note: str = "") -> None:
        children = sorted(child.pid for child in multiprocessing.active_children() if child.pid)
        if kept.exists() and not struck:  # once: what is told after it finds one process, or none
            struck.append(children[killed])
            os.kill(*struck, signal.SIGKILL)

    with pytest.raises(WorkersLost, match="was ended by SIGKILL") as lost:
        launch.side_by_side(TWO, longer, progress)
    assert lost.value.exit_code == 75
    assert not multiprocessing.active_children()

    told = Told()
    worker.train(longer, "cpu", told)
    assert 1 < told[0][0] < 60, "the next run goes on from the checkpoint, also with fewer processes"
    assert told[-1] == (60, 60)


def test_the_workers_meet_on_this_machine_and_end_before_an_interruption(task: Task) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    endless = task.model_copy(update={"plan": plan_of(10_000), "seed": 5})
    listen = dict[int, set[str]]()

    def progress(done: int, total: int, note: str = "") -> None:
        sockets = listening()
        for child in multiprocessing.active_children():
            listen[child.pid] = {sockets[name] for name in descriptors(child.pid) if name in sockets}
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        launch.side_by_side(TWO, endless, progress)
    assert list(listen.values()) == [{"0100007F"}] * 2, "a worker listens on 127.0.0.1, and nowhere else"
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_worker_refuses_is_what_the_command_says(task: Task) -> None:
    other = task.model_copy(update={"data_sha256": "0" * 64})
    with pytest.raises(DataNotFit, match="not those that the training began with"):
        launch.side_by_side(TWO, other, Told())
