"""Whole participations on a GPU: the installed command, a real server, each task; and processes side by side."""

from pathlib import Path

import pytest
import torch
from support.federation import Server, running
from support.gpu_sizes import TASKS, network_of, required, size_of
from support.site import Site, prepare_blobs
from support.training_task import task_at

from fedsite.jobs.training import launch
from fedsite.site.config import TrainingSettings
from fedsite.training.weights import export
from fedsite.wire import payload

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with running(tmp_path_factory.mktemp("federation") / "server") as server:
        yield server


def asked_for(task, size):
    """A plan's sections for a task at a size."""
    return {
        "task": task.name,
        "channels": [channel.name for channel in task.channels],
        "network": {"name": size.network, "settings": size.settings},
        "local": {"steps": size.steps, "batch_size": size.batch, "patch_voxels": list(size.patch)},
    }


@pytest.mark.parametrize("name", TASKS)
def test_a_participation(name, device, server: Server, tmp_path: Path):
    task = required(name)
    size = size_of(task, device)
    site = Site(tmp_path / "site")
    site.init(policy={"tasks": [name]}, training={"device": device.type})
    site.enroll(server.invite(f"site-{name}"))
    prepare_blobs(site, patients=3, held_out=1, size=size.case, task=name)
    shapes = {key: value.shape for key, value in export(network_of(task, size)).items()}
    number = server.open_round(tmp_path, shapes=shapes, **asked_for(task, size))

    answer = site.ok("train-round", timeout=600)

    assert answer["outcome"] == "uploaded"
    body = site.round_state(number)[1]
    assert body["training"]["steps"] == size.steps
    server.close_rounds()


def test_processes_side_by_side_give_the_weights_of_one(device, tmp_path: Path):
    """NCCL on GPUs, one process for each; gloo on a CPU, two of them."""
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    task = task_at(tmp_path, steps=3, checkpoint_seconds=300)
    found = []
    for numbers in ((0,), tuple(range(count))):
        launch.train(TrainingSettings(device=device.type, devices=numbers), task, lambda done, total, note="": None)
        found.append(
            {key: torch.from_numpy(value.copy()) for key, value in payload.tensors_of(task.destination).items()}
        )
    for key, value in found[0].items():
        tolerance = {"rtol": 0.0, "atol": 2e-6} if device.type == "cpu" else {"rtol": 2e-2, "atol": 2e-3}
        torch.testing.assert_close(found[1][key], value, **tolerance)


def test_the_launcher_meets_by_nccl(cuda, tmp_path: Path):
    """Also on a machine with one GPU."""
    record = launch.side_by_side((str(cuda),), task_at(tmp_path, steps=3, checkpoint_seconds=300), lambda *told: None)
    assert record is not None
    assert record["steps"] == 3
