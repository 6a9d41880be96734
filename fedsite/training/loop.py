"""The training loop: it is given its sampler and its step, so that a private step needs no second loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from fedsite.errors import CannotWrite, DataNotFit
from fedsite.training.checkpoints import Checkpoints
from fedsite.training.prefetch import prefetched
from fedsite.training.stopping import EarlyStop, TimeLimit

Seen = TypeVar("Seen")  # what a sampler gives to a step: a batch, or under a private mechanism one of each patient
Sampler = Callable[[int], Seen]
Step = Callable[[Seen], torch.Tensor | float]

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

    def __init__(self, known: list[float]) -> None:
        self.values = known
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
        if not pending:
            return
        for value in torch.stack([torch.as_tensor(one) for one in pending]).tolist():
            if not math.isfinite(value):
                raise DataNotFit(
                    f"The loss became {value} at training step {len(self.values) + 1}; nothing leaves.",
                    "Look for broken images in the report of prepare-data, or ask for a plan with a lower learning"
                    " rate.",
                )
            self.values.append(value)

    @property
    def lately(self) -> str:
        """Their mean of late, in words."""
        return f"loss {fmean(self.values[-READ_EVERY:]):.3f}" if self.values else ""


@dataclass(frozen=True)
class TrainingRecord:
    """What a training was: the loss of each step, its seconds over all attempts, and what happened on the way.

    `resumed` is the step from which this attempt went on; `scores` are those of early stopping. All of it stays at the
    site.
    """

    losses: tuple[float, ...]
    seconds: float
    resumed: int = 0
    scores: tuple[float, ...] = ()
    events: tuple[str, ...] = ()

    def summary(self, points: int = 100) -> dict[str, Any]:
        """As JSON, with the loss as a curve of at most so many means over equal stretches of steps."""
        size = max(1, math.ceil(len(self.losses) / points))
        curve = [fmean(self.losses[start : start + size]) for start in range(0, len(self.losses), size)]
        return {
            "steps": len(self.losses),
            "steps_a_point": size,
            "loss": [round(value, 5) for value in curve],
            "seconds": round(self.seconds, 1),
            "scores": [round(value, 5) for value in self.scores],
            "events": list(self.events),
        }


def train(
    network: nn.Module,
    sampler: Sampler[Seen],
    step: Step[Seen],
    steps: int,
    progress: Progress = silent,
    *,
    before_step: Callable[[int], None] = lambda number: None,
    checkpoints: Checkpoints | None = None,
    limit: TimeLimit | None = None,
    early_stop: EarlyStop | None = None,
) -> TrainingRecord:
    """Takes `steps` steps; `steps` may be 0. On a CPU the same sampler and step give bit-equal weights again, also
    where `checkpoints` lets it go on from a training that was cut off.

    The sampler makes its batches in a thread of its own, ahead of the steps. A checkpoint that cannot be written is an
    event of the record, and the next one is tried; what was kept before stays.

    Raises DataNotFit when a loss is not finite, at that step or (on a GPU) a few steps later, MinutesSpent at the
    limit, whatever `progress` raises (either way the training is kept), and whatever sampler and step raise.
    """
    limit = limit or TimeLimit()
    known, limit.before = checkpoints.resume() if checkpoints else ([], 0.0)
    losses, resumed, events = Losses(known), len(known), list[str]()

    def keep(done: int) -> None:
        losses.read()
        if checkpoints is not None:
            try:
                checkpoints.keep(losses.values, limit.taken)
            except CannotWrite as error:
                events.append(f"no checkpoint after step {done}: {error.message}")

    network.train()
    with prefetched(sampler, range(resumed, steps)) as batches:
        for number, batch in enumerate(batches, start=resumed):
            if spent := limit.spent(number, steps):
                keep(number)
                raise spent
            before_step(number)
            losses.add(step(batch))
            if early_stop is not None and early_stop.says_so(number + 1):
                events.append(f"stopped after step {number + 1}: validation no longer gained")
                break
            try:
                progress(number + 1, steps, losses.lately)
            except BaseException:
                keep(number + 1)  # whoever is told may end the training here, between two steps: they lose nothing
                raise
            if checkpoints is not None and checkpoints.due:
                keep(number + 1)
    losses.read()
    if early_stop is not None:
        early_stop.restore_best()
    scores = tuple(early_stop.scores) if early_stop else ()
    return TrainingRecord(tuple(losses.values), limit.taken, resumed, scores, tuple(events))
