"""The training loop: it is given its sampler and its step, so that a private step needs no second loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from fedsite.errors import DataNotFit
from fedsite.training.batches import Batch

Sampler = Callable[[int], Batch]
Step = Callable[[Batch], torch.Tensor | float]

MOMENTUM = 0.9
READ_EVERY = 16


class Progress(Protocol):
    """Told after every step how far the training is, and in a few words how it goes. What it is told stays here."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """So many steps of so many are done."""
        ...


def silent(done: int, total: int, note: str = "") -> None:
    """No progress is shown."""


class Losses:
    """The loss of each step. On a GPU they are fetched a few at a time: fetching one waits for everything before it."""

    def __init__(self, known: tuple[float, ...] = ()) -> None:
        self.values = list(known)
        self._pending: list[torch.Tensor | float] = []

    def add(self, value: torch.Tensor | float) -> None:
        """The next step's loss, which is looked at now or soon. Raises DataNotFit as `read` does."""
        self._pending.append(value)
        here = not isinstance(value, torch.Tensor) or value.device.type == "cpu"
        if here or len(self._pending) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Looks at every loss so far. Raises DataNotFit at the first that is not finite: such weights are worth
        nothing, and the caller must let nothing leave.
        """
        pending, self._pending = self._pending, []
        tensors = [value for value in pending if isinstance(value, torch.Tensor)]
        read = torch.stack(tensors).tolist() if len(tensors) == len(pending) > 0 else [float(one) for one in pending]
        for value in read:
            if not math.isfinite(value):
                raise DataNotFit(
                    f"The loss became {value} at training step {len(self.values) + 1}; nothing leaves.",
                    "Look for broken images in the report of prepare-data, or ask for a plan with a lower learning"
                    " rate.",
                )
            self.values.append(value)


@dataclass(frozen=True)
class TrainingRecord:
    """What a training was: the loss of each step, and its wall time. Both stay at the site."""

    losses: tuple[float, ...]
    seconds: float


def train(
    network: nn.Module,
    sampler: Sampler,
    step: Step,
    steps: int,
    progress: Progress = silent,
) -> TrainingRecord:
    """Takes `steps` steps; `steps` may be 0. On a CPU the same sampler and step give bit-equal weights again.

    Raises DataNotFit when a loss is not finite, at that step or (on a GPU) a few steps later.
    """
    started = time.monotonic()
    losses = Losses()
    network.train()
    for number in range(steps):
        losses.add(step(sampler(number)))
        progress(number + 1, steps)
    losses.read()
    return TrainingRecord(tuple(losses.values), time.monotonic() - started)


def make_optimizer(network: nn.Module, name: Literal["adam", "sgd"], learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser of a plan, fresh in every round: Adam with torch's defaults, or SGD with Nesterov momentum 0.9.

    Parameters that are frozen (`requires_grad` false) are left out.
    """
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if name == "adam":
        return torch.optim.Adam(learned, lr=learning_rate)
    return torch.optim.SGD(learned, lr=learning_rate, momentum=MOMENTUM, nesterov=True)
