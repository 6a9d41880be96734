"""What a private mechanism is to a training: who is in a step, and what becomes of their gradients.

The mechanism itself (`fedsite.privacy.dpsgd`) is given: this room knows patches and optimisers, and no patient by name.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fedsite.training.batches import Batch
from fedsite.training.sampling import PatchSampler
from fedsite.training.steps import SupervisedStep


class Mechanism(Protocol):
    """Chooses who is in a step, and makes its gradient of theirs."""

    @property
    def events(self) -> Sequence[str]:
        """What happened on the way, in words."""
        ...

    def included(self) -> Sequence[int]:
        """The patients of the next step, by number."""
        ...

    def __call__(self, gradients: Callable[[Batch], torch.Tensor], step: Sequence[Batch]) -> float:
        """Leaves the gradient of a step in the parameters, made of each patient's; gives the loss."""
        ...


@dataclass(frozen=True)
class Private:
    """A mechanism, and for whom: each patient's cases, by pseudonym. Their order is that of the mechanism's numbers."""

    mechanism: Mechanism
    patients: Mapping[str, Sequence[int]]


class PatientSampler:
    """The patches of whoever is in a step, patient by patient; nobody's depend on who else there is.

    A patient's patches come from all of the patient's cases. Pseudonym, seed and step alone decide which they are.
    """

    def __init__(self, patches: PatchSampler, private: Private) -> None:
        self._patches = patches
        self._included = private.mechanism.included
        self._patients = [(_number(name), cases) for name, cases in private.patients.items()]

    def __call__(self, step: int) -> tuple[Batch, ...]:
        """A batch for each patient who is in this step; none for an empty one."""
        return tuple(self._of(step, *self._patients[number]) for number in self._included())

    def _of(self, step: int, patient: int, cases: Sequence[int]) -> Batch:
        return self._patches.batch([(step, patient, place) for place in self._patches.places], cases)


class PrivateStep:
    """The step of a private mechanism: patient by patient, then the optimiser's part of an ordinary step.

    Memory that runs out shrinks the micro-batches within a patient (`SupervisedStep`), and changes nothing else.
    """

    def __init__(self, ordinary: SupervisedStep, mechanism: Mechanism) -> None:
        self._ordinary = ordinary
        self._mechanism = mechanism

    def __call__(self, patients: Sequence[Batch]) -> float:
        """Takes the step, whoever is in it; gives the loss. Raises DeviceTooSmall."""
        loss = self._mechanism(self._ordinary.gradients_that_fit, patients)
        self._ordinary.move()
        return loss


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
