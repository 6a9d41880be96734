"""What a worker process is told, and what it tells."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.federation import dp_sgd, plan

from fedsite.errors import DataNotFit, WorkersLost
from fedsite.jobs.training import launch, worker
from fedsite.jobs.training.launch import WorkerBroken
from fedsite.jobs.training.worker import Broken, Task
from fedsite.site.config import TrainingSettings
from fedsite.wire.plans import Plan

KEY = {"id": "0" * 16, "ed25519": "0" * 64}
KILLED = WorkersLost("Training process 2 of 2 was ended by SIGKILL.", "", killed=True)
FAILED = WorkersLost("Training process 1 of 2 ended with code 1.", "", killed=False)
BROKEN = Broken("RuntimeError", "fedsite.training.distributed:80")
REFUSED = DataNotFit("The case e-abc is damaged.", "Prepare the data again.")


def test_a_worker_is_told_paths_and_plain_settings_alone() -> None:
    """A new field needs a thought: neither keys nor the ledger nor the state folder go there."""
    told = {"plan", "seed", "model", "destination", "data", "data_sha256", "carried", "means", "own_tasks"}
    assert set(Task.model_fields) == told | {"sampling_rate"}


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


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"devices": [0, 1, 2]}, ["dp-sgd computes on one device: 2 more devices had nothing to do"]),
        (
            {"devices": [0, 1], "machines": 3, "meeting": "first:1234"},
            ["dp-sgd computes on one device: 1 more devices and 2 more machines had nothing to do"],
        ),
        ({"devices": [0]}, []),
        ({}, []),
    ],
)
def test_private_steps_are_taken_on_the_first_device_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any], told: list[str]
) -> None:
    asked = plan(privacy=dp_sgd()) | {"round_key": KEY, "receipt_key": KEY}
    task = Task(
        plan=Plan.model_validate_json(json.dumps(asked)),
        seed=3,
        model=tmp_path / "model",
        destination=tmp_path / "out",
        data=tmp_path,
        sampling_rate=0.1,
    )
    devices: list[str] = []

    def train(task: Task, device: str, progress: object) -> dict[str, Any]:
        devices.append(device)
        return {"events": []}

    monkeypatch.setattr(worker, "train", train)
    record = launch.train(TrainingSettings.model_validate({"device": "cpu"} | settings), task, lambda *_: None)
    assert record == {"events": told}
    assert devices == ["cpu"]


def test_of_an_unforeseen_failure_the_kind_and_the_place_are_told_and_not_the_text() -> None:
    try:
        worker._prepared(None, "")  # type: ignore[arg-type]
    except TypeError as error:
        broken = worker._broken(error)
    assert broken.kind == "TypeError"
    assert broken.place.startswith("fedsite.")
    assert broken.place.rpartition(":")[2].isdigit()
