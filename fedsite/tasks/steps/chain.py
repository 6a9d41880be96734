"""What every task does to a study: RAS axes, a spacing, the crop to the head, and each image on a scale of its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from monai.data.meta_tensor import MetaTensor

MARGIN_MM = 8.0
DARKEST, BRIGHTEST = -5.0, 15.0


def chain(
    spacing_mm: tuple[float, float, float],
    foreground: "Callable[[torch.Tensor], torch.Tensor]",
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A MONAI Compose: RAS axes, the given spacing (mm), cropped to the head, each channel normalised.

    Takes `image` [channels, i, j, k] and `label` [1, i, j, k], channel-first MetaTensors with an affine (RAS, mm), and
    gives [inputs, X, Y, Z] and [1, X, Y, Z]. `foreground` finds the head in the first channel, [1, X, Y, Z]. Nothing in
    it depends on another patient. (What its steps are in plain MONAI: scripts/plain_monai.py.)
    """
    from monai.transforms import Compose, CropForegroundd

    from fedsite.tasks.steps.grid import RasSpacingd

    def with_foreground(case: dict[str, Any]) -> dict[str, Any]:
        return {**case, "foreground": foreground(case["image"][:1])}

    def normalised(case: dict[str, Any]) -> dict[str, Any]:
        """Without the foreground, which has done its work."""
        return {"image": _normalised(case["image"], case["foreground"]), "label": case["label"]}

    steps: Callable[[dict[str, Any]], dict[str, Any]] = Compose(
        [
            RasSpacingd(("image", "label"), spacing_mm, ("bilinear", "nearest")),
            with_foreground,
            CropForegroundd(
                ["image", "label", "foreground"],
                source_key="foreground",
                margin=[round(MARGIN_MM / side) for side in spacing_mm],
                allow_smaller=True,
                start_coord_key=None,
                end_coord_key=None,
            ),
            normalised,
        ]
    )
    return steps


def _normalised(image: "MetaTensor", foreground: "MetaTensor") -> "torch.Tensor":
    import torch

    # Not NormalizeIntensity(nonzero=True): it writes into its input, and does not know a whole head's air.
    from fedsite.tasks.steps.intensity import robust_z_score

    each = [robust_z_score(one[None], foreground, DARKEST, BRIGHTEST) for one in image]
    return each[0] if len(each) == 1 else torch.cat(each)
