"""The training loop: it is given its sampler and its step, so that a private step needs no second loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fedsite.errors import DataNotFit
from fedsite.training.sampling import Batch

Sampler = Callable[[int], Batch]
Step = Callable[[Batch], float]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MOMENTUM = 0.9


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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingRecord:
    """Takes `steps` steps; `steps` may be 0. On a CPU the same sampler and step give bit-equal weights again.

    Raises DataNotFit at the first step whose loss is not finite: such weights are worth nothing, and the caller
    must let nothing leave.
    """
    started = time.monotonic()
    losses = []
    network.train()
    for number in range(steps):
        value = step(sampler(number))
        if not math.isfinite(value):
            raise DataNotFit(
                f"The loss became {value} at training step {number + 1} of {steps}; nothing leaves.",
                "Look for broken images in the report of prepare-data, or ask for a plan with a lower learning rate.",
            )
        losses.append(value)
        progress(number + 1, steps)
    return TrainingRecord(tuple(losses), time.monotonic() - started)


def supervised_step(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, device: torch.device) -> Step:
    """The ordinary step: forward, loss, backward, optimiser; in bfloat16 autocast on CUDA, float32 elsewhere.

    A loss that is not finite is returned without touching the weights.
    """

    def step(batch: Batch) -> float:
        batch = batch.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(batch.image)
        error = loss(logits.float(), batch.label)
        value = error.item()
        if math.isfinite(value):
            torch.autograd.backward(error)
            optimizer.step()
        return value

    return step


def make_optimizer(network: nn.Module, name: Literal["adam", "sgd"], learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser of a plan, fresh in every round: Adam with torch's defaults, or SGD with Nesterov momentum 0.9."""
    if name == "adam":
        return torch.optim.Adam(network.parameters(), lr=learning_rate)
    return torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=MOMENTUM, nesterov=True)


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: CUDA where there is a device, else the CPU; any other name is torch's own."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
