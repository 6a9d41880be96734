"""How large the tests are on a device: as in life on a GPU, tiny on a CPU, where they are only tried out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from support.case_maker import content_of
from support.site import blob
from torch import nn

from fedsite.dataset.cases import Content
from fedsite.tasks import networks, registry
from fedsite.tasks.description import Task
from fedsite.training.fit import Machine, Recipe, fit
from fedsite.training.loop import Progress, TrainingRecord, silent

TASKS = registry.names()


@dataclass(frozen=True)
class Size:
    """A network and its settings, patches, batch, steps, and the side of a case in voxels."""

    network: str
    settings: dict[str, Any]
    patch: tuple[int, int, int]
    batch: int
    steps: int
    case: int

    def __str__(self) -> str:
        return f"{self.network}, patches of {'x'.join(map(str, self.patch))}, batch {self.batch}"


def size_of(task: Task, device: torch.device, network: str = "segresnet") -> Size:
    """The task's own patch in batches of two on a GPU."""
    if device.type == "cuda":
        return Size(network, {}, task.default_patch_voxels, 2, 30, 160)
    settings = {"segresnet": {"init_filters": 8, "blocks_down": [1, 1]}, "unet": {"channels": [4, 8]}}
    return Size(network, settings[network], (16, 16, 16), 2, 3, 24)


class Case:
    """A case in memory, as a sampler reads it."""

    def __init__(self, content: Content) -> None:
        self.image, self.label, self.missing = content.image, content.label, ()

    def foreground(self) -> np.ndarray:
        return np.flatnonzero(self.label)


def required(name: str) -> Task:
    """A task without its optional channels."""
    task = registry.get(name)
    return task.narrowed([channel.name for channel in task.channels if not channel.optional])


def cases_of(task: Task, size: Size, count: int = 3) -> list[Case]:
    """Easy cases: `support.site.blob`."""
    random = np.random.default_rng(0)
    return [Case(content_of(*blob(task, size.case, random), task.inputs)) for _ in range(count)]


def network_of(task: Task, size: Size) -> nn.Module:
    """Always with the same weights."""
    return networks.build(task, size.network, size.settings, seed=1)


def recipe_of(size: Size, **changes: Any) -> Recipe:
    """SGD, since Adam's first steps magnify what only rounding differs in."""
    given = {"steps": size.steps, "batch_size": size.batch, "patch_voxels": size.patch, "optimizer": "sgd"}
    return Recipe(**(given | {"learning_rate": 0.02, "foreground_fraction": 0.67, "seed": 4} | changes))


def train(
    task: Task, size: Size, machine: Machine, network: nn.Module, progress: Progress = silent, **changes: Any
) -> TrainingRecord:
    """The whole training of a round on easy cases."""
    loss = registry.module(task.module).loss()
    return fit(network, task, cases_of(task, size), loss, recipe_of(size, **changes), machine, progress)
