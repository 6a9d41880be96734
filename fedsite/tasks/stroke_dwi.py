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

MARGIN_MM = 8.0
DARKEST, BRIGHTEST = -5.0, 15.0


def preprocessing(spacing_mm: tuple[float, float, float]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A MONAI Compose: RAS axes, the given spacing (mm), cropped to the head, robust z-scores.

    Takes and gives `image` [1, X, Y, Z] and `label` [1, X, Y, Z], channel-first MetaTensors with an affine (RAS, mm).
    Nothing in it depends on another patient. (What its steps are in plain MONAI: scripts/plain_monai.py.)
    """
    from monai.transforms import Compose, CropForegroundd

    from fedsite.tasks.steps.grid import RasSpacingd

    steps: Callable[[dict[str, Any]], dict[str, Any]] = Compose(
        [
            RasSpacingd(("image", "label"), spacing_mm, ("bilinear", "nearest")),
            _with_foreground,
            CropForegroundd(
                ["image", "label", "foreground"],
                source_key="foreground",
                margin=[round(MARGIN_MM / side) for side in spacing_mm],
                allow_smaller=True,
                start_coord_key=None,
                end_coord_key=None,
            ),
            _normalised,
        ]
    )
    return steps


def _with_foreground(case: dict[str, Any]) -> dict[str, Any]:
    from fedsite.tasks.steps.intensity import foreground

    return {**case, "foreground": foreground(case["image"])}


def _normalised(case: dict[str, Any]) -> dict[str, Any]:
    """Without the foreground, which has done its work."""
    # Not NormalizeIntensity(nonzero=True): it writes into its input, and does not know a whole head's air.
    from fedsite.tasks.steps.intensity import robust_z_score

    image = robust_z_score(case["image"], case["foreground"], DARKEST, BRIGHTEST)
    return {"image": image, "label": case["label"]}


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
