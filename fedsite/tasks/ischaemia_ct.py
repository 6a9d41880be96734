"""Acute ischaemic stroke on CT without contrast agent: the infarct, where grey matter has lost its contrast to white.

Reference: ISLES'24 (Riedel et al. 2024, arXiv:2408.11142), whose BIDS layout is read as it is: the CT of the first
session, and the infarct that the MR of the second showed, on the grid of the CT.
"""

from fedsite.tasks import losses
from fedsite.tasks.description import Channel, Layout, Task
from fedsite.tasks.networks import SEGRESNET, SEGRESNET_DS, UNET
from fedsite.tasks.steps import chain

DESCRIPTION = Task(
    name="ischaemia-ct",
    title="Acute ischaemic stroke lesion on CT without contrast agent",
    channels=(
        Channel(
            name="ct",
            modality="CT",
            summary="CT of the head without contrast agent, axial, slices of 5 mm or thinner, soft-tissue kernel",
            bids_suffix="ncct",
            contrast_agent=False,
            max_slice_mm=5.5,
            axial=True,
            # The stroke window, in which 4 HU between grey and white matter show; then brain, with vessels and blood.
            windows=((20, 45), (0, 80)),
        ),
    ),
    labels={0: "background", 1: "lesion"},
    layouts=(
        Layout("bids", "bids", label="lesion-msk", label_values={1: 1}),
        Layout("decathlon", "decathlon", images={"ct": 0}, label_values={1: 1}),
    ),
    default_spacing_mm=(1, 1, 2.5),
    default_patch_voxels=(128, 128, 48),
    networks=(UNET, SEGRESNET, SEGRESNET_DS),
    # A few Hounsfield units are all there is to see.
    allows_lossy=False,
    allows_reformats=True,
    reference="ISLES'24, https://doi.org/10.48550/arXiv.2408.11142",
    notes="Windows of 20 to 45 and 0 to 80 HU. Masks are best drawn on a diffusion-weighted MR and brought to the CT:"
    " readers of the CT alone agree little.",
)
preprocessing = chain.ct
loss = losses.of_labels
