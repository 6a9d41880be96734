"""What may end a training before its last step: local validation that no longer gains, or spent GPU minutes."""

import math
import time
from collections.abc import Callable

import torch
from torch import nn

from fedsite.errors import MinutesSpent


class TimeLimit:
    """The seconds that a training may take, those of earlier attempts (`before`) included."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self.before = 0.0
        self._started = time.monotonic()

    @property
    def taken(self) -> float:
        """Seconds taken so far."""
        return self.before + time.monotonic() - self._started

    def spent(self, done: int, steps: int) -> MinutesSpent | None:
        """The error to raise when the time is up."""
        if self.taken < self.seconds:
            return None
        return MinutesSpent(
            f"Training stopped after {done} of {steps} steps: the round's {self.seconds / 60:g} minutes are spent"
            " (policy.maximum_gpu_minutes).",
            "Its checkpoint is kept: with a larger limit in site.yaml the next run goes on from there.",
        )


class EarlyStop:
    """Ends a training when `measure()`, taken every so many steps, has not risen for `patience` times in a row.

    The weights of the best measurement are those that count. Validation depends on patients, so this is for rounds
    without a private mechanism alone (Prechelt 1998, Early Stopping - But When?).
    """

    def __init__(self, network: nn.Module, measure: Callable[[], float], every: int, patience: int) -> None:
        self.network = network
        self.measure = measure
        self.every = every
        self.patience = patience
        self.scores: list[float] = []
        self.best: dict[str, torch.Tensor] = {}

    def says_so(self, done: int) -> bool:
        """Whether to end after so many steps; it measures when its turn has come."""
        if done % self.every:
            return False
        score = self.measure()
        if not self.scores or score > max(self.scores):
            self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.scores.append(score)
        return len(self.scores) - 1 - self.scores.index(max(self.scores)) >= self.patience

    def restore_best(self) -> None:
        """Gives the network the weights of the best measurement, if there was one."""
        if self.best:
            self.network.load_state_dict(self.best)
