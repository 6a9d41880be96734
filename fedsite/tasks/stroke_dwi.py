"""Acute ischaemic stroke on diffusion-weighted MR: the lesion, as it is bright on the trace image and dark on the ADC.

Reference: ISLES'22 (Hernandez Petzsche et al. 2022, Scientific Data 9:762), whose BIDS layout is read as it is.
"""

from fedsite.tasks import losses
from fedsite.tasks.description import Channel, Layout, Task
from fedsite.tasks.networks import SEGRESNET, SEGRESNET_DS, UNET
from fedsite.tasks.steps import chain

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
        Channel(
            name="adc",
            modality="MR",
            summary="map of the apparent diffusion coefficient",
            bids_suffix="adc",
            quantity="adc",
            optional=True,
        ),
        Channel(
            name="flair",
            modality="MR",
            summary="T2-weighted image with suppressed fluid (FLAIR)",
            bids_suffix="FLAIR",
            weighting="FLAIR",
            contrast_agent=False,
            optional=True,
        ),
    ),
    labels={0: "background", 1: "lesion"},
    layouts=(Layout("bids", "bids", label_values={1: 1}),),
    default_spacing_mm=(2, 2, 2),
    default_patch_voxels=(64, 64, 64),
    preprocessing_version=2,
    networks=(UNET, SEGRESNET, SEGRESNET_DS),
    reference="ISLES'22, https://doi.org/10.1038/s41597-022-01875-5",
    notes="One trace volume with b from 700 to 1500 s/mm2 a study; b = 0 and single directions are left aside. ADC and"
    " FLAIR are used where a plan names them, and may be missing.",
)
preprocessing = chain.mr
loss = losses.of_labels
