"""The optimiser of a plan, and how its learning rate moves within a round."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["adam", "sgd"]
Schedule = Literal["constant", "cosine"]


def make_optimizer(
    network: nn.Module, name: OptimizerName, learning_rate: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Fresh in every round: Adam with torch's defaults, or SGD with Nesterov momentum.

    Parameters that are frozen (`requires_grad` false) are left out.
    """
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if name == "adam":
        return torch.optim.Adam(learned, lr=learning_rate)
    return torch.optim.SGD(learned, lr=learning_rate, momentum=momentum, nesterov=momentum > 0)


def learning_rate(schedule: Schedule, base: float, steps: int, number: int) -> float:
    """The rate of step `number` (from 0) of `steps`: constant, or half a cosine from `base` towards 0.

    Loshchilov and Hutter 2017, SGDR, ICLR, without restarts: a round is one descent.
    """
    if schedule == "constant":
        return base
    return base * (1 + math.cos(math.pi * number / steps)) / 2


def follow(optimizer: torch.optim.Optimizer, schedule: Schedule, base: float, steps: int) -> Callable[[int], None]:
    """What is to be called before each step with its number, on which alone the rate depends, also when resumed."""

    def before_step(number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, base, steps, number)

    return before_step
