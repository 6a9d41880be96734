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
    networks=(UNET, SEGRESNET),
    reference="ISLES'22, https://doi.org/10.1038/s41597-022-01875-5",
    notes="One trace volume with b from 700 to 1500 s/mm2 a study; b = 0 and single directions are left aside.",
)

BINS = 256
BRIGHT_END = 0.9
MARGIN_MM = 8.0
DARKEST, BRIGHTEST = -5.0, 15.0


def preprocessing(spacing_mm: tuple[float, float, float]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A MONAI Compose: RAS axes, the given spacing (mm), cropped to the head, robust z-scores.

    Takes and gives `image` [1, X, Y, Z] and `label` [1, X, Y, Z], channel-first MetaTensors with an affine (RAS, mm).
    Nothing in it depends on another patient.
    """
    from monai.transforms import Compose, CropForegroundd, Lambdad, Orientationd, Spacingd

    steps: Callable[[dict[str, Any]], dict[str, Any]] = Compose(
        [
            # With labels unnamed MONAI warns that their default changes; None takes the MetaTensor's own space (RAS).
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            Spacingd(["image", "label"], pixdim=spacing_mm, mode=["bilinear", "nearest"]),
            CropForegroundd(
                ["image", "label"],
                source_key="image",
                select_fn=foreground,
                margin=[round(MARGIN_MM / side) for side in spacing_mm],
                allow_smaller=True,
                start_coord_key=None,
                end_coord_key=None,
            ),
            # Not NormalizeIntensity(nonzero=True): it writes into its input, and does not know a whole head's air.
            Lambdad(["image"], func=robust_z_score),
        ]
    )
    return steps


def foreground(image: "torch.Tensor") -> "torch.Tensor":
    """What is no air, as a boolean image: the tissue of the head, or the brain of a skull-stripped image.

    Otsu's threshold (1979, IEEE Trans. SMC 9:62): it maximises the variance between the two classes, whatever the
    scanner's scale and noise floor. Values above the 90th percentile count as that percentile, so that a bright lesion
    makes no class of its own.
    """
    import torch

    values = _plain(image).float().clamp(max=_percentiles(image, BRIGHT_END)[0])
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, BINS, low, high).double()
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    below, sums = counts.cumsum(0), (counts * edges[1:]).cumsum(0)
    above = below[-1] - below
    difference = sums / below.clamp(min=1) - (sums[-1] - sums) / above.clamp(min=1)
    between = below * above * difference**2
    return image > float(edges[1 + int(between.argmax())])


def robust_z_score(image: "torch.Tensor") -> "torch.Tensor":
    """Intensities as distances from the foreground's median in robust standard deviations (IQR / 1.349).

    A lesion is the bright outlier that the network must see: median and quartiles do not move with it, mean and
    standard deviation would. The clip keeps air and artefacts in a range that float16 holds well.
    """
    inside = image[foreground(image)]
    if inside.numel() == 0:
        return image.clone()
    low, middle, high = _percentiles(inside, 0.25, 0.5, 0.75)
    spread = max((high - low) / 1.349, 1e-6 * max(abs(middle), 1.0))
    return ((image - middle) / spread).clamp(DARKEST, BRIGHTEST)


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


def _percentiles(values: "torch.Tensor", *fractions: float) -> list[float]:
    """Values at these ranks. (torch.quantile refuses more than 16 million values; a volume may hold more.)"""
    flat = _plain(values).flatten()
    return [float(flat.kthvalue(1 + round(fraction * (len(flat) - 1))).values) for fraction in fractions]


def _plain(image: "torch.Tensor") -> "torch.Tensor":
    """Without MONAI's metadata, which arithmetic would otherwise carry along and copy."""
    import torch

    return image.as_subclass(torch.Tensor)
