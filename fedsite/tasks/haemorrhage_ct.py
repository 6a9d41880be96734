"""Intracranial haemorrhage on CT: fresh blood, in the brain, its ventricles or around it.

Reference: INSTANCE 2022 (Li et al. 2023, arXiv:2301.03281) and BHSD (Wu et al. 2023, arXiv:2308.11298), whose folders
are read as they are; of BHSD's five kinds of haemorrhage one is made.
"""

from fedsite.tasks import losses
from fedsite.tasks.description import Channel, Concept, Layout, Task
from fedsite.tasks.networks import SEGRESNET, SEGRESNET_DS, UNET
from fedsite.tasks.steps import chain

DESCRIPTION = Task(
    name="haemorrhage-ct",
    title="Intracranial haemorrhage on CT",
    channels=(
        Channel(
            name="ct",
            modality="CT",
            summary="CT of the head without contrast agent, axial, slices of 5 mm or thinner, soft-tissue kernel",
            bids_suffix="ct",
            contrast_agent=False,
            max_slice_mm=5.5,
            axial=True,
            # What a reader looks through: brain; subdural, so that blood along the skull stands out from bone; bone.
            windows=((0, 80), (-20, 180), (-800, 2000)),
        ),
    ),
    labels={0: "background", 1: "haemorrhage"},
    concepts={1: Concept("50960005", "Hemorrhage")},
    layouts=(
        Layout("bids", "bids", label_values={1: 1}),
        Layout("decathlon", "decathlon", images={"ct": 0}, label_values={1: 1}),
        Layout("instance22", "decathlon", images={"ct": 0}, label_values={1: 1}, folders=("data", "label")),
        Layout(
            "bhsd",
            "decathlon",
            images={"ct": 0},
            label_values=dict.fromkeys(range(1, 6), 1),
            folders=("images", "ground truths"),
        ),
    ),
    # In the plane what a thin rim of blood needs, across it what 5 mm slices give.
    default_spacing_mm=(1, 1, 2.5),
    default_patch_voxels=(128, 128, 48),
    networks=(UNET, SEGRESNET, SEGRESNET_DS),
    # Coded values of blood and brain lie a few Hounsfield units apart: what loses some loses the rim.
    allows_lossy=False,
    # Axial slices of 5 mm are made from thin ones on nearly every scanner, and are what is reported from.
    allows_reformats=True,
    reference="INSTANCE 2022, https://doi.org/10.48550/arXiv.2301.03281; BHSD,"
    " https://doi.org/10.48550/arXiv.2308.11298",
    notes="Windows of 0 to 80, -20 to 180 and -800 to 2000 HU. Angiographies and other images with contrast agent are"
    " left aside.",
)
preprocessing = chain.ct
loss = losses.of_labels
