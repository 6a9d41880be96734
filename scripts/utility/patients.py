"""From a hospital to prepared cases: patients are acquired, preprocessed by the task, and put into the case store."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from hospitals.anatomy import load_head
from hospitals.imaging import LPS_TO_RAS, acquire
from hospitals.lesions import grown

from fedsite.files import write_atomically
from utility.sites import Hospital

if TYPE_CHECKING:
    from fedsite.dataset.cases import Content

Split = Literal["training", "validation", "test"]

TASK = "stroke-dwi"
CHANNELS = ("dwi",)


def make_cases(
    folder: Path, hospital: Hospital, split: Split, patients: int, seed: int, spacing_mm: float
) -> list[Path]:
    """The prepared cases of so many patients: acquired, preprocessed by the task, in the project's case store.

    Every patient follows from hospital, split, seed and number alone. What is there already is not made again.
    """
    from fedsite.dataset.cases import write_case

    listed = folder / "cases.txt"
    if not listed.exists():
        files = [
            write_case(folder, f"e-{number:04}", _prepared(hospital, split, number, seed, spacing_mm))[0]
            for number in range(patients)
        ]
        write_atomically(listed, "\n".join(files).encode())
    return [folder / name for name in listed.read_text().split()]


def _prepared(hospital: Hospital, split: Split, number: int, seed: int, spacing_mm: float) -> "Content":
    """One patient's case, as preparation would make it of the acquired series and the expert's mask."""
    import torch
    from monai.data.meta_tensor import MetaTensor

    from fedsite.dataset.cases import Content
    from fedsite.tasks import registry

    rng = np.random.default_rng([seed, number, *f"{hospital.name}/{split}".encode()])
    lesion = grown(rng, hospital.cohort.lesion_ml)
    images = acquire(load_head(), lesion, hospital.scanner, rng, hospital.cohort)
    affine = LPS_TO_RAS @ images.affine
    task = registry.get(TASK).narrowed(CHANNELS)
    prepared = registry.module(TASK).preprocessing(task, (spacing_mm, spacing_mm, spacing_mm))(
        {
            "image": MetaTensor(torch.from_numpy(images.trace[None]), affine=torch.from_numpy(affine)),
            "label": MetaTensor(torch.from_numpy(images.mask[None]), affine=torch.from_numpy(affine)),
        }
    )
    return Content(
        image=prepared["image"].numpy().astype(np.float16),
        label=prepared["label"].numpy()[0].astype(np.uint8),
        affine=np.asarray(prepared["image"].affine, np.float64),
        inputs=task.inputs,
        source_label=images.mask,
        source_affine=affine,
    )
