"""What every task does to a study: RAS axes, a spacing, the crop to the head, and each image on a scale of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fedsite.tasks.description import Channel, Task

if TYPE_CHECKING:
    import torch

Chain = Callable[[dict[str, Any]], dict[str, Any]]

MARGIN_MM = 8.0
DARKEST, BRIGHTEST = -5.0, 15.0
# In 10^-6 mm2/s. Normal brain has about 800 (Sener 2001, J Magn Reson Imaging 13:321), an infarct less than 620
# (Purushotham et al. 2015, J Cereb Blood Flow Metab 35:1199), fluid 3000.
ADC_OF_BRAIN, ADC_STEP = 800.0, 200.0


def mr(task: Task, spacing_mm: tuple[float, float, float]) -> Chain:
    """For MR: the head is what is no air in the first channel, which is never optional. As `_chain`."""
    from fedsite.tasks.steps.intensity import foreground

    return _chain(task.channels, spacing_mm, foreground)


def ct(task: Task, spacing_mm: tuple[float, float, float]) -> Chain:
    """For CT: the head is the largest piece that is denser than air. As `_chain`."""
    from fedsite.tasks.steps.hounsfield import head

    return _chain(task.channels, spacing_mm, partial(head, spacing_mm=spacing_mm))


def _chain(
    channels: Sequence[Channel],
    spacing_mm: tuple[float, float, float],
    foreground: "Callable[[torch.Tensor], torch.Tensor]",
) -> Chain:
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
        return {"image": _normalised(case, channels), "label": case["label"]}

    steps: Chain = Compose(
        [
            _without_missing,
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


def _without_missing(case: dict[str, Any]) -> dict[str, Any]:
    """Zeros need no resampling. `present` says of each channel whether it is there."""
    present = [bool(one.any()) for one in case["image"].as_tensor()]
    held = [index for index, there in enumerate(present) if there]
    return {**case, "present": present, "image": case["image"] if all(present) else case["image"][held]}


def _normalised(case: dict[str, Any], channels: Sequence[Channel]) -> "torch.Tensor":
    """The network's inputs [inputs, X, Y, Z]: exact zeros for what is missing."""
    import torch

    images, foreground = iter(case["image"].split(1)), case["foreground"]
    inputs: list[torch.Tensor] = []
    for channel, there in zip(channels, case["present"], strict=True):
        absent = [torch.zeros_like(case["image"][:1])] * len(channel.inputs)
        inputs += _inputs(next(images), foreground, channel) if there else absent
    return inputs[0] if len(inputs) == 1 else torch.cat(inputs)


def _inputs(image: "torch.Tensor", foreground: "torch.Tensor", channel: Channel) -> "list[torch.Tensor]":
    """What the network gets of one image [1, X, Y, Z].

    Robust z-scores; where units mean the same on every scanner, a fixed scale instead: of each window 0 to 1, of an
    ADC map 0 for normal brain and 1 for `ADC_STEP` more.
    """
    # Not NormalizeIntensity(nonzero=True): it writes into its input, and does not know a whole head's air.
    from fedsite.tasks.steps.intensity import robust_z_score

    if channel.windows:
        return [((image - low) / (high - low)).clamp_(0, 1) for low, high in channel.windows]
    if channel.quantity == "adc":
        return [((image - ADC_OF_BRAIN) / ADC_STEP).clamp_(DARKEST, BRIGHTEST)]
    return [robust_z_score(image, foreground, DARKEST, BRIGHTEST)]
