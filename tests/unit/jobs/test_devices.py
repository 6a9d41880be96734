"""Which devices a run takes: those of site.yaml, or of --devices; one in this process, several with a process each."""

from pathlib import Path
from typing import Any

import pytest
from support.training_task import task_at

from fedsite.errors import ConfigurationError, UsageError
from fedsite.jobs.site import open_site
from fedsite.jobs.training import launch
from fedsite.jobs.training.worker import Task
from fedsite.site.config import TrainingSettings


def test_devices_of_one_run(config: Path) -> None:
    with open_site(config) as site:
        assert site.on_devices("0,3").config.training.devices == (0, 3)
        assert site.config.training.devices == ()
        for wrong in ("", "a", "0,", "-1", "0 1", "1,1", "0,1" * 400):
            with pytest.raises(UsageError):
                site.on_devices(wrong)


def test_several_machines_need_a_place_to_meet() -> None:
    with pytest.raises(ValueError, match=r"training\.meeting"):
        TrainingSettings(machines=2)
    assert TrainingSettings(machines=2, meeting="gpu1.example.org:29400").meeting
    with pytest.raises(ValueError, match="pattern"):
        TrainingSettings(machines=2, meeting="gpu1; rm:1")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return task_at(tmp_path_factory.mktemp("site"), steps=1, checkpoint_seconds=300)


def ignore(done: int, total: int, note: str = "") -> None:
    pass


def test_how_a_training_is_started(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch has three patches here: no more devices than that can compute."""
    alone: list[str] = []
    together: list[tuple[Any, ...]] = []

    def side_by_side(names: tuple[str, ...], task: Task, progress: object, *rest: Any) -> dict[str, Any]:
        together.append((names, *rest))
        return {"events": []}

    monkeypatch.setattr(launch.worker, "train", lambda task, device, progress: alone.append(device))
    monkeypatch.setattr(launch, "side_by_side", side_by_side)
    for settings in (
        TrainingSettings(device="cpu"),
        TrainingSettings(device="cpu", devices=(5,)),
    ):
        launch.train(settings, task, ignore)
    assert (alone, together) == (["cpu", "cpu"], [])
    launch.train(TrainingSettings(device="cpu", devices=(0, 1)), task, ignore)
    record = launch.train(TrainingSettings(device="cpu", devices=(0, 1, 2, 3)), task, ignore)
    launch.train(TrainingSettings(device="cpu", machines=2, meeting="a:1"), task, ignore)
    assert together == [(("cpu",) * 2, 1, ""), (("cpu",) * 3, 1, ""), (("cpu",), 2, "a:1")]
    assert record == {"events": ["3 of 4 devices computed: a batch has no more patches"]}
    launch.train(TrainingSettings(devices=(7, 8)), task.model_copy(update={"data": None}), ignore)
    assert alone[2:] == ["cpu"], "where nothing is trained no device is needed"


def test_a_gpu_that_is_not_there_is_named(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="asks for CUDA"):
        launch.train(TrainingSettings(device="cuda"), task, ignore)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match="no GPU 1"):
        launch.train(TrainingSettings(devices=(0, 1)), task, ignore)
