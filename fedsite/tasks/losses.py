"""The two losses, each of every patient by itself and then averaged: nothing mixes the patients of a batch.

Both also take the list of a deeply supervised network, finest scale first: its losses count 1, 1/2, 1/4 ... against the
label brought to each scale (Lee et al. 2015, "Deeply-supervised nets").
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedsite.tasks.description import Region

if TYPE_CHECKING:
    import torch

    Answer = torch.Tensor | list[torch.Tensor]


def of_labels() -> "Callable[[Answer, torch.Tensor], torch.Tensor]":
    """Softmax, Dice + cross-entropy (Isensee et al. 2021, Nature Methods 18:203).

    From logits [B, labels, X, Y, Z] and label values [B, 1, X, Y, Z]. No batch Dice: it would mix patients. The
    background's Dice is left out; it is near 1 for any network.
    """
    from monai.losses.dice import DiceCELoss
    from monai.losses.ds_loss import DeepSupervisionLoss

    loss: Callable[[Answer, torch.Tensor], torch.Tensor] = DeepSupervisionLoss(
        DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=False)
    )
    return loss


def of_regions(regions: Sequence[Region]) -> "Callable[[Answer, torch.Tensor], torch.Tensor]":
    """Sigmoid, Dice + binary cross-entropy of each region, averaged.

    From logits [B, regions, X, Y, Z] and label values [B, 1, X, Y, Z].
    """
    import torch
    from monai.losses.dice import DiceLoss
    from monai.losses.ds_loss import DeepSupervisionLoss

    dice, cross_entropy = DiceLoss(sigmoid=True, batch=False), torch.nn.BCEWithLogitsLoss()

    def of_one_scale(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        inside = [functools.reduce(operator.or_, (label == value for value in region.values)) for region in regions]
        wanted = torch.cat(inside, dim=1).to(logits.dtype)
        loss: torch.Tensor = dice(logits, wanted) + cross_entropy(logits, wanted)
        return loss

    loss: Callable[[Answer, torch.Tensor], torch.Tensor] = DeepSupervisionLoss(of_one_scale)
    return loss
