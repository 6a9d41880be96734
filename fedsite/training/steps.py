"""One optimiser step: forward, loss, backward over micro-batches, what may change the gradient, the optimiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fedsite.errors import DeviceTooSmall
from fedsite.training.augmentation import augment
from fedsite.training.averaging import Average
from fedsite.training.batches import Batch
from fedsite.training.devices import Precision

# What a network answers in training: logits [B, outputs, x, y, z], or under deep supervision one of each scale.
Logits = torch.Tensor | list[torch.Tensor]
Loss = Callable[[Any, torch.Tensor], torch.Tensor]
GradientHook = Callable[[nn.Module], None]


class SupervisedStep:
    """The ordinary step. It gives the batch's mean loss, on the device: nobody waits for the GPU.

    A batch is worked through in micro-batches of at most `micro_batch` patches (None: all at once), whose gradients
    add up to that of the whole batch: a loss is a mean over patients and no network normalises over a batch, so the
    step is the same but for rounding. Where memory runs out, the micro-batch is halved and the step begun anew, before
    any weight has changed; `halvings` says how often.

    `compiled` lets torch.compile build both passes. `reduction` is called with the network once all its gradients are
    there (several processes add theirs up); `correction` thereafter, on unscaled gradients, right before the
    optimiser: what an algorithm adds to them. `average` follows the weights after each step.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        device: torch.device,
        *,
        micro_batch: int | None = None,
        precision: Precision | None = None,
        reduction: GradientHook | None = None,
        correction: GradientHook | None = None,
        compiled: bool = False,
        average: Average | None = None,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.loss = loss
        self.device = device
        self.micro_batch = micro_batch
        self.precision = precision or Precision.of(device)
        self.reduction = reduction
        self.correction = correction
        self.average = average
        self.halvings = 0
        self.layout = torch.contiguous_format
        self._forward = torch.compile(network) if compiled else network
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaled)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Takes the step; gives the loss, float32 [], detached. Raises DeviceTooSmall."""
        value = self.gradients_that_fit(batch)
        if self.reduction is not None:
            self.reduction(self.network)
        self.move()
        return value

    def move(self) -> None:
        """The optimiser's part, on the gradient that the parameters hold. Raises DeviceTooSmall."""
        self.scaler.unscale_(self.optimizer)
        if self.correction is not None:
            self.correction(self.network)
        try:
            self.scaler.step(self.optimizer)
        except torch.OutOfMemoryError:
            # Some weights may have moved already: this step cannot be taken again.
            raise _too_small("The optimiser's state does") from None
        self.scaler.update()
        if self.average is not None:
            self.average.follow()

    def use_layout(self, layout: torch.memory_format) -> None:
        """How images, and the weights that meet them, lie in memory from here on. Values stay as they are."""
        self.layout = layout
        self.network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub knows 4D only

    def gradients_that_fit(self, batch: Batch) -> torch.Tensor:
        """The same as `gradients`, in smaller micro-batches where memory runs out. Raises DeviceTooSmall."""
        while True:
            try:
                return self.gradients(batch)
            except torch.OutOfMemoryError:
                smaller = min(self.micro_batch or len(batch), len(batch)) // 2
            # Outside the handler, whose exception holds the frames, and so the tensors, of what did not fit.
            self.optimizer.zero_grad()
            if not smaller:
                raise _too_small("One patch of this plan does")
            self.micro_batch = smaller
            self.halvings += 1
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def gradients(self, batch: Batch) -> torch.Tensor:
        """Leaves the mean loss's gradient in the parameters (scaled where the precision asks for it)."""
        self.optimizer.zero_grad()
        size = self.micro_batch or len(batch)
        total = torch.zeros((), device=self.device)
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            share = len(part) / len(batch)
            error = self._loss_of(augment(part.to(self.device))) * share
            torch.autograd.backward(self.scaler.scale(error))
            total += error.detach()
        return total

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        with self.precision.autocast():
            logits: Logits = self._forward(batch.image.contiguous(memory_format=self.layout))
        return self.loss(_in_full(logits), batch.label)


def _too_small(what: str) -> DeviceTooSmall:
    return DeviceTooSmall(
        f"{what} not fit into the memory of the training device.",
        "Set training.device to cpu or take a larger GPU; or ask for a plan with smaller patches.",
    )


def _in_full(logits: Logits) -> Logits:
    """In float32, where losses are computed."""
    return logits.float() if isinstance(logits, torch.Tensor) else [scale.float() for scale in logits]
