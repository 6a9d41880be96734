"""`dp-sgd`: each step samples patients, clips the gradient of each of them, and noises the sum in integers.

A patient, with all studies, is one unit: in a step or not (Poisson sampling at rate q), with one gradient over all of
the patches drawn from these studies, whose norm is clipped to C. Adding or removing a patient moves the clipped sum by
at most C, so with noise of standard deviation sigma * C every step is a Gaussian mechanism of multiplier sigma on a
Poisson sample, and T steps of it are what the ledger is charged for. What is done with a noised sum (its division, the
optimiser, an average of weights, terms of an algorithm) looks at no patient and costs nothing more.

One patient is worked through at a time, so any network will do that keeps nothing of what it has seen. The clipped
gradients are summed in the gate's integers, where they were computed, and noised once a step, also when nobody is in
it. Who is in a step, and the noise, come from the operating system.

Abadi et al. 2016, Deep Learning with Differential Privacy (CCS); several patches of one patient within one clipped
gradient as in De et al. 2022, Unlocking High-Accuracy Differentially Private Image Classification through Scale.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from fedsite.errors import DataNotFit
from fedsite.privacy import mechanism
from fedsite.privacy.mechanism import CHUNK, STEPS_PER_CLIP_NORM, Gate, NoiseSource

if TYPE_CHECKING:
    from torch import Tensor, nn

Patches = TypeVar("Patches")
# So many patients' clipped gradients can be summed in 32 bits: each value of one is at most 2^20.
PIECE = 1 << 16  # so much of a gradient is clipped at once: in float64, half a MiB
MOST_IN_32_BITS = (2**31 - 1) // STEPS_PER_CLIP_NORM


class Chance(Protocol):
    """Who is in a step. A release takes `SystemChance`, tests may bring another."""

    def included(self, count: int, rate: float) -> Sequence[int]:
        """Which of `count` patients are in, in ascending order; each is with chance `rate`, whoever else is."""
        ...


class SystemChance:
    """Poisson sampling by the operating system's entropy: 64 bits for each patient."""

    def included(self, count: int, rate: float) -> Sequence[int]:
        """As `Chance` says. A rate that 64 bits cannot hold is rounded down, never up."""
        if rate >= 1:
            return range(count)
        drawn = np.frombuffer(os.urandom(8 * count), np.uint64)
        found: list[int] = np.flatnonzero(drawn < np.uint64(int(rate * 2**64))).tolist()
        return found


@dataclass(frozen=True)
class Settings:
    """What a plan asks for, and the rate q at which this site samples: `batch_patients` over those that it typed."""

    clip_norm: float
    noise_multiplier: float
    batch_patients: int
    sampling_rate: float


class PrivateGradient:
    """A sampler of patients, and what makes the private gradient of a step from theirs.

    `patients` is how many there are; what a step costs does not depend on it. `unusable` counts the gradients that
    were not finite. Raises DataNotFit for a network that keeps something of what it has seen, or learns nothing.
    """

    def __init__(
        self,
        network: "nn.Module",
        patients: int,
        settings: Settings,
        chance: Chance | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        _require_memoryless(network)
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        values = sum(parameter.numel() for parameter in self.parameters)
        self.gate = Gate(settings.clip_norm, settings.noise_multiplier, values)
        self.patients = patients
        self.settings = settings
        self.unusable = 0
        self._chance = chance or SystemChance()
        self._noise = noise or mechanism.SystemNoise()
        self._loss = 0.0

    @property
    def events(self) -> Sequence[str]:
        """What a person must know: whose gradients were no numbers stays unknown, how many is told at home."""
        told = f"{self.unusable} times a patient's gradient was not finite, and counted as zero"
        return [told] if self.unusable else []

    def included(self) -> Sequence[int]:
        """The patients of the next step."""
        return self._chance.included(self.patients, self.settings.sampling_rate)

    def __call__(self, gradients: "Callable[[Patches], Tensor]", step: Sequence[Patches]) -> float:
        """Leaves a step's private gradient in the parameters; gives the patients' mean loss, for this site's eyes.

        `step` holds each patient's patches; `gradients` leaves their gradient in the parameters and gives their loss.
        The noised sum is divided by the patients that the plan means, not by those who are here. Where nobody is in
        the step, or has a finite loss, the loss is that of the step before.
        """
        import torch

        whole = torch.int32 if len(step) <= MOST_IN_32_BITS else torch.int64
        total = [torch.zeros(one.numel(), dtype=whole, device=one.device) for one in self.parameters]
        losses = [self._add(gradients, patches, total) for patches in step]
        finite = [loss for loss in losses if math.isfinite(loss)]
        self._loss = sum(finite) / len(finite) if finite else self._loss
        self._leave(total)
        return self._loss

    def _add(self, gradients: "Callable[[Patches], Tensor]", patches: Patches, total: "Sequence[Tensor]") -> float:
        """Adds a patient's clipped gradient to the total; one that is not finite counts as zero. Gives the loss."""
        import torch

        loss = float(gradients(patches))
        row = [_flat(parameter.grad, parameter) for parameter in self.parameters]
        norm = math.sqrt(sum(values @ values for values in map(torch.Tensor.double, _pieces(row))))
        if not math.isfinite(norm):
            self.unusable += 1
            return loss
        factor = mechanism.factor_of(self.gate, norm)
        square = torch.zeros((), dtype=torch.float64, device=row[0].device)
        for piece, its_sum in zip(_pieces(row), _pieces(total), strict=True):
            steps = torch.trunc_(piece.double() * factor)
            square += steps @ steps  # of integers, so exact up to 2^53
            its_sum += steps.to(its_sum.dtype)
        mechanism.require_bounded(float(square))
        return loss

    def _leave(self, total: "Sequence[Tensor]") -> None:
        """Noises the sum, divides it, and puts it where the optimiser looks for a gradient."""
        import torch

        divisor = self.gate.scale * self.settings.batch_patients
        for parameter, its_sum in zip(self.parameters, total, strict=True):
            parameter.grad = None  # frees the last patient's first
            parameter.grad = torch.zeros_like(parameter)
            place, sums = _flat(parameter.grad, parameter), its_sum.cpu().numpy()
            for start in range(0, sums.size, CHUNK):
                part = slice(start, start + CHUNK)
                noised = mechanism.add_noise(sums[part].astype(np.int64), self.gate, self._noise)
                place[part] = torch.from_numpy(noised / divisor)


def _pieces(tensors: "Sequence[Tensor]") -> "Iterator[Tensor]":
    """Views of tensors in one dimension, so short that little memory is needed beside them."""
    import torch

    return (piece for tensor in tensors for piece in torch.split(tensor, PIECE))


def _flat(tensor: "Tensor | None", like: "nn.Parameter") -> "Tensor":
    """A tensor in one dimension, in the order in which `like` lies in memory, so that most are views; zeros where a
    parameter took no part.
    """
    if tensor is None:
        return like.detach().new_zeros(like.numel())
    order = sorted(range(like.dim()), key=like.stride, reverse=True)
    return tensor.detach().permute(order).reshape(-1)


def _require_memoryless(network: "nn.Module") -> None:
    """What a network keeps beside its weights (running statistics) would carry patients past the noise."""
    kept = next((name for name, _ in network.named_buffers()), None)
    if kept is not None:
        raise DataNotFit(
            f"The network keeps {kept} of what it has seen: under dp-sgd that would leave without noise.",
            "Use a network with instance or group normalisation and without running statistics.",
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise DataNotFit("Nothing in this network learns.", "See the plan's local.train and its algorithm.")
