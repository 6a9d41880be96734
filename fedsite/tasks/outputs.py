"""From what a network answers to label values, and which structures a task is measured by."""

import itertools
from typing import TYPE_CHECKING

from fedsite.tasks.description import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def decode(task: Task, logits: "torch.Tensor") -> "torch.Tensor":
    """The label value of every voxel: logits [B, outputs, X, Y, Z] to uint8 [B, X, Y, Z].

    Of labels the most probable. Of regions, the widest first, each that is more probable than not is painted with the
    value that is its own, so that what lies in an inner region lies in the outer ones too (as nnU-Net does; Isensee et
    al. 2021, Nature Methods 18:203). Of probabilities, `decode(task, p.logit())` gives the same.
    """
    import torch

    if not task.regions:
        return logits.argmax(dim=1).to(torch.uint8)
    labels = torch.zeros_like(logits[:, 0], dtype=torch.uint8)
    for value, answer in zip(own_values(task), logits.unbind(dim=1), strict=True):
        labels[answer > 0] = value
    return labels


def probabilities(task: Task, logits: "torch.Tensor") -> "torch.Tensor":
    """Of each output, [B, outputs, X, Y, Z] as the logits: they sum to 1 over labels, and stand alone for regions."""
    return logits.sigmoid() if task.regions else logits.softmax(dim=1)


def labels(task: Task, sure: "NDArray[np.float32]") -> "NDArray[np.uint8]":
    """The label values [X, Y, Z] that probabilities [outputs, X, Y, Z] mean."""
    import torch

    # Less a half, probabilities have the order of logits and their sign.
    found: NDArray[np.uint8] = decode(task, torch.from_numpy(sure)[None] - 0.5)[0].numpy()
    return found


def structures(task: Task) -> dict[str, tuple[int, ...]]:
    """What is measured, by name: the label values of each region, or else each label but the background."""
    if task.regions:
        return {region.name: region.values for region in task.regions}
    return {name: (value,) for value, name in task.labels.items() if value}


def own_values(task: Task) -> tuple[int, ...]:
    """Of each of a task's regions the one label value that the next inner one has not.

    Raises ValueError where regions are not nested so.
    """
    values = [set(region.values) for region in task.regions]
    found: list[int] = []
    for outer, inner in itertools.pairwise([*values, set[int]()]):
        if len(own := outer - inner) != 1 or not inner < outer:
            raise ValueError(f"{task.name}: the region of {sorted(outer)} does not lie around the next by one value")
        found += own
    return tuple(found)
