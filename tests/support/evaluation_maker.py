"""What measuring needs: prepared cases, a model file, as much of a site as is asked, a network that is nearly right."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from support import site as sites
from support.federation import draft
from torch import nn

from fedsite.dataset import manifest as manifests
from fedsite.files import sha256_of
from fedsite.jobs.models import choice
from fedsite.jobs.models.choice import Model
from fedsite.jobs.plan import algorithms
from fedsite.jobs.progress import silent_steps
from fedsite.jobs.training.local_work import PreparedData
from fedsite.site.state import State
from fedsite.tasks import networks, registry
from fedsite.training import weights
from fedsite.wire.payload import write_model


class Threshold(nn.Module):
    """Label 1 where the first input is above 1: what `support.site.blob` makes of a lesion."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = image[:, :1]
        return torch.cat([1 - first, first - 1], dim=1)


def prepared(folder: Path, patients: int = 1, held_out: int = 3, **options: Any) -> PreparedData:
    sites.prepare_blobs(sites.Site(folder), patients, held_out, size=20, **options)
    return opened(folder / "data")


def opened(folder: Path) -> PreparedData:
    return PreparedData(folder, manifests.load(folder), sha256_of(folder / manifests.FILE_NAME))


def model_of(folder: Path, kind: choice.Kind = "global", after_round: int | None = 3, **changes: Any) -> Model:
    """A model of a plan's network, with fresh weights: those of them that travel."""
    plan = draft(folder, **changes)
    network = networks.build(registry.get(plan.task).narrowed(plan.channels), plan.network.name, plan.network.settings)
    path, tensors = folder / f"{kind}.safetensors", weights.export(network)
    home = algorithms.at_home(plan, tensors)
    write_model(path, {name: values for name, values in tensors.items() if name not in home})
    return Model(path, sha256_of(path), plan, kind, after_round)


@dataclass
class AtHome:
    """As much of a site as measuring asks for."""

    state: State
    config: Any
    steps: list[str] = field(default_factory=list)
    device: str = "cpu"

    def step(self, description: str) -> Any:
        self.steps.append(description)
        return silent_steps(description)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [record.body for record in self.state.records("audit") if record.body["event"] == name]
