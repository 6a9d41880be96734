"""The global model on this site's own validation cases. Its result stays at home (privacy.md)."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedsite.errors import DataNotFit, ServerBrokeProtocol
from fedsite.wire.messages import MalformedMessage, PlanDraft
from fedsite.wire.payload import tensors_of


class ValidationCase(Protocol):
    """A prepared case under its pseudonym: image [C, X, Y, Z], label [X, Y, Z] on the prepared grid."""

    @property
    def id(self) -> str:
        """The case's pseudonym."""
        ...

    @property
    def image(self) -> NDArray[np.floating]:
        """[C, X, Y, Z]"""
        ...

    @property
    def label(self) -> NDArray[np.uint8]:
        """[X, Y, Z]"""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Dice per case (by pseudonym) on the prepared grid, and their mean."""

    dice: dict[str, float]
    mean: float


def evaluate(
    model_path: Path,
    plan: PlanDraft,
    cases: Sequence[ValidationCase],
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Segments every case with the model and compares with its label.

    Raises DataNotFit without cases, ServerBrokeProtocol when the model file is not one of the plan's network,
    OutOfRange when the plan asks for a network or task outside its description.
    """
    from fedsite.tasks import networks, request
    from fedsite.training import devices, inference, metrics, weights

    if not cases:
        raise DataNotFit(
            "There is no validation case to evaluate on.",
            "Prepare more patients: about one in five is kept for validation.",
        )
    task = request.check(plan.task, plan.channels, plan.network.name, plan.network.settings, plan.local.patch_voxels)
    network = networks.build(task, plan.network.name, plan.network.settings)
    try:
        weights.load(network, tensors_of(model_path))
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"The model file is damaged: {error}.", "Fetch it again.") from error
    where = devices.choose_device(device)
    network.to(where)
    found = {}
    for number, case in enumerate(cases, start=1):
        prediction = inference.segment(network, task, case.image, plan.local.patch_voxels, where)
        found[case.id] = metrics.dice(prediction, case.label)
        progress(number, len(cases))
    return Evaluation(found, statistics.fmean(found.values()))
