"""Glioma on MR: the whole tumour, its core, and what of that takes up contrast agent.

Reference: BraTS (Baid et al. 2021, arXiv:2107.02314) in the naming of 2023 and later, or of 2021 and before, and Task01
of the Medical Segmentation Decathlon (Antonelli et al. 2022, Nature Communications 13:4128). The three store other
values for the same tissue. The task's own are those of BraTS 2023.
"""

from functools import partial

from fedsite.tasks import losses
from fedsite.tasks.description import Channel, Concept, Layout, Region, Task
from fedsite.tasks.networks import SEGRESNET, SEGRESNET_DS, UNET
from fedsite.tasks.steps import chain

CORE, OEDEMA, ENHANCING = 1, 2, 3

DESCRIPTION = Task(
    name="brain-tumour-mr",
    title="Glioma on MR: whole tumour, core, enhancing part",
    channels=(
        Channel(
            name="t1",
            modality="MR",
            summary="T1-weighted image without contrast agent",
            bids_suffix="T1w",
            weighting="T1",
            contrast_agent=False,
        ),
        Channel(
            name="t1c",
            modality="MR",
            summary="T1-weighted image with contrast agent",
            bids_suffix="T1w",
            weighting="T1",
            contrast_agent=True,
        ),
        Channel(name="t2", modality="MR", summary="T2-weighted image", bids_suffix="T2w", weighting="T2"),
        Channel(
            name="flair",
            modality="MR",
            summary="T2-weighted image with suppressed fluid (FLAIR)",
            bids_suffix="FLAIR",
            weighting="FLAIR",
        ),
    ),
    labels={0: "background", CORE: "necrotic or solid core", OEDEMA: "oedema or invasion", ENHANCING: "enhancing"},
    regions=(
        Region("whole", (CORE, OEDEMA, ENHANCING)),
        Region("core", (CORE, ENHANCING)),
        Region("enhancing", (ENHANCING,)),
    ),
    concepts={
        CORE: Concept("6574001", "Necrosis"),
        OEDEMA: Concept("79654002", "Edema"),
        ENHANCING: Concept("108369006", "Neoplasm"),
    },
    layouts=(
        Layout(
            "brats",
            "brats",
            images={"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"},
            label="seg",
            label_values={1: CORE, 2: OEDEMA, 3: ENHANCING},
        ),
        Layout(
            "brats-2021",
            "brats",
            images={"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair"},
            label="seg",
            label_values={1: CORE, 2: OEDEMA, 4: ENHANCING},
        ),
        Layout(
            "decathlon",
            "decathlon",
            images={"flair": 0, "t1": 1, "t1c": 2, "t2": 3},
            label_values={1: OEDEMA, 2: CORE, 3: ENHANCING},
        ),
        Layout("bids", "bids", label_values={1: CORE, 2: OEDEMA, 3: ENHANCING}),
    ),
    default_spacing_mm=(1, 1, 1),
    default_patch_voxels=(128, 128, 128),
    networks=(UNET, SEGRESNET, SEGRESNET_DS),
    # The sequences are acquired in several planes, and 3D ones are reconstructed in others.
    allows_reformats=True,
    reference="BraTS, https://doi.org/10.48550/arXiv.2107.02314; Medical Segmentation Decathlon, Task01,"
    " https://doi.org/10.1038/s41467-022-30695-9",
    notes="Before surgery. The four images lie on one grid, or in one frame of reference; where the patient moved, they"
    " are registered before.",
)
preprocessing = chain.mr
loss = partial(losses.of_regions, DESCRIPTION.regions)
