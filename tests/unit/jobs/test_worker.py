"""What a worker process is told, and what it tells."""

import pytest

from fedsite.errors import DataNotFit, WorkersLost
from fedsite.jobs import launch, worker
from fedsite.jobs.launch import WorkerBroken
from fedsite.jobs.worker import Broken, Task

KILLED = WorkersLost("Training process 2 of 2 was ended by SIGKILL.", "", killed=True)
FAILED = WorkersLost("Training process 1 of 2 ended with code 1.", "", killed=False)
BROKEN = Broken("RuntimeError", "fedsite.training.distributed:80")
REFUSED = DataNotFit("The case e-abc is damaged.", "Prepare the data again.")


def test_a_worker_is_told_paths_and_plain_settings_alone() -> None:
    """A new field needs a thought: neither keys nor the ledger nor the state folder go there."""
    told = {"plan", "seed", "model", "destination", "data", "data_sha256", "carried", "means", "own_tasks"}
    assert set(Task.model_fields) == told


@pytest.mark.parametrize(
    ("heard", "lost", "kind", "words"),
    [
        ([], KILLED, WorkersLost, "SIGKILL"),
        ([BROKEN], KILLED, WorkersLost, "SIGKILL"),
        ([BROKEN], FAILED, WorkerBroken, "RuntimeError at fedsite.training.distributed:80"),
        ([BROKEN, REFUSED], FAILED, DataNotFit, "e-abc is damaged"),
        ([{"steps": 3}], FAILED, WorkersLost, "code 1"),
    ],
)
def test_the_cause_goes_before_what_followed_from_it(
    heard: list[object], lost: WorkersLost, kind: type[Exception], words: str
) -> None:
    cause = launch._cause(heard, lost)
    assert type(cause) is kind
    assert words in cause.message


def test_of_an_unforeseen_failure_the_kind_and_the_place_are_told_and_not_the_text() -> None:
    try:
        worker._prepared(None, "")  # type: ignore[arg-type]
    except TypeError as error:
        broken = worker._broken(error)
    assert broken.kind == "TypeError"
    assert broken.place.startswith("fedsite.")
    assert broken.place.rpartition(":")[2].isdigit()
