"""Acute ischaemic stroke on diffusion-weighted MR: the lesion, as it is bright on the trace image.

Reference: ISLES'22 (Hernandez Petzsche et al. 2022, Scientific Data 9:762), whose BIDS layout is read as it is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedsite.tasks.description import Channel, Task
from fedsite.tasks.networks import SEGRESNET, UNET

if TYPE_CHECKING:
    import torch

DESCRIPTION = Task(
    name="stroke-dwi",
    title="Acute ischaemic stroke lesion on diffusion-weighted MR",
    channels=(
        Channel(
            name="dwi",
            modality="MR",
            summary="diffusion-weighted trace image (mean over directions)",
            b_values=(700, 1500),
            bids_suffix="dwi",
        ),
    ),
    labels={0: "background", 1: "lesion"},
    default_spacing_mm=(2, 2, 2),
    preprocessing_version=2,
    networks=(UNET, SEGRESNET),
    reference="ISLES'22, https://doi.org/10.1038/s41597-022-01875-5",
    notes="One trace volume with b from 700 to 1500 s/mm2 a study; b = 0 and single directions are left aside.",
)


def preprocessing(_task: Task, spacing_mm: tuple[float, float, float]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`steps.chain`, the head being what is no air in the trace image."""
    from fedsite.tasks.steps.chain import chain
    from fedsite.tasks.steps.intensity import foreground

    return chain(spacing_mm, foreground)


def loss() -> "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]":
    """Dice + cross-entropy (Isensee et al. 2021), of each patient by itself and then averaged.

    From logits [B, 2, X, Y, Z] and label values [B, 1, X, Y, Z]. No batch Dice: it would mix patients. The
    background's Dice is left out; it is near 1 for any network.
    """
    from monai.losses.dice import DiceCELoss

    per_patient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=False
    )
    return per_patient
