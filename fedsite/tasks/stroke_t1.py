"""Subacute and chronic stroke on T1-weighted MR: the infarct, or the hole that it left.

Reference: ATLAS v2.0 (Liew et al. 2022, Scientific Data 9:320), whose BIDS layout is read as it is.
"""

from fedsite.tasks import losses
from fedsite.tasks.description import Channel, Layout, Task
from fedsite.tasks.networks import SEGRESNET, SEGRESNET_DS, UNET
from fedsite.tasks.steps import chain

DESCRIPTION = Task(
    name="stroke-t1",
    title="Subacute or chronic stroke lesion on T1-weighted MR",
    channels=(
        Channel(
            name="t1",
            modality="MR",
            summary="T1-weighted image without contrast agent, of the whole head and about 1 mm",
            bids_suffix="T1w",
            weighting="T1",
            contrast_agent=False,
            max_slice_mm=3,
        ),
    ),
    labels={0: "background", 1: "lesion"},
    layouts=(Layout("bids", "bids", label_values={1: 1}),),
    default_spacing_mm=(1, 1, 1),
    default_patch_voxels=(128, 128, 128),
    networks=(UNET, SEGRESNET, SEGRESNET_DS),
    # A 3D acquisition is reconstructed in any plane; what was resampled once has lost nothing that a lesion needs.
    allows_reformats=True,
    reference="ATLAS v2.0, https://doi.org/10.1038/s41597-022-01401-7",
    notes="From about a week after the stroke on; earlier the lesion hardly shows on T1. All lesions of a patient are"
    " one label.",
)
preprocessing = chain.mr
loss = losses.of_labels
