"""Several processes train one network: each takes its share of every batch, and their gradients are added up.

All of them hold the same weights and take the same optimiser steps, on the gradient that one process would have had
(but for rounding). What they share out is the batch, so a plan means the same on any number of devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from fedsite.errors import ConfigurationError
from fedsite.training.batches import Batch
from fedsite.training.loop import Step
from fedsite.training.steps import GradientHook

# How long one process waits for the others: longer than writing a checkpoint or tuning convolutions ever takes.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Group:
    """The processes of one training, seen from one of them. Alone, every operation does nothing."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reads and writes for all of them."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """The patches of each batch that this process takes; shares differ by one patch at most.

        Raises ConfigurationError where there are more processes than patches: some could never do anything.
        """
        if batch_size < self.size:
            raise ConfigurationError(
                f"A batch of {batch_size} patches cannot be shared out among {self.size} processes.",
                "Name fewer training.devices, or fewer machines.",
            )
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def reduction(self, batch_size: int) -> GradientHook | None:
        """Turns the mean gradient of each share into that of the whole batch; None where there is one process."""
        return None if self.size == 1 else _summed(self._weight(batch_size))

    def whole(self, step: Step[Batch], batch_size: int) -> Step[Batch]:
        """The step with the loss of the whole batch, so that every process sees the same one and ends with the rest."""
        if self.size == 1:
            return step

        def shared(batch: Batch) -> torch.Tensor:
            loss = torch.as_tensor(step(batch)) * self._weight(batch_size)
            dist.all_reduce(loss)
            return loss

        return shared

    def same(self, network: nn.Module) -> None:
        """Gives every process the leader's weights."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)

    def _weight(self, batch_size: int) -> float:
        part = self.share(batch_size)
        weight: float = (part.stop - part.start) / batch_size
        return weight


def _summed(weight: float) -> GradientHook:
    """A sum over all processes of their gradients, each times its weight, in one message."""

    def reduce(network: nn.Module) -> None:
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients]).mul_(weight)
        dist.all_reduce(joined)
        parts = torch.split(joined, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    return reduce


@contextmanager
def joined(meeting: str, device: torch.device) -> Iterator[Group]:
    """The group of all processes that meet at a URL of torch's (`file:///...?rank=0&world_size=2`, `env://`).

    NCCL carries what lies on GPUs, gloo what lies on CPUs. After an error nobody is waited for.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", init_method=meeting, timeout=PATIENCE, device_id=device)
    else:
        dist.init_process_group("gloo", init_method=meeting, timeout=PATIENCE)
    yield Group(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


def tell(content: bytes, device: torch.device) -> bytes:
    """Gives every process the leader's bytes; what the others pass is not looked at."""
    length = torch.tensor(len(content), device=device)
    dist.broadcast(length, 0)
    buffer = torch.zeros(int(length), dtype=torch.uint8, device=device)
    if dist.get_rank() == 0 and content:
        buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    dist.broadcast(buffer, 0)
    return buffer.cpu().numpy().tobytes()
