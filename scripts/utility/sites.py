"""Four hospitals that train and a fifth that nobody trained on: who comes there, and what their scanner sees.

Intensity scale is no difference that counts: the task's preprocessing takes it out. What stays are noise, shading,
sharpness, slices, b-value, and above all what is bright without being an infarct. Each of the four knows one such
thing well and the others hardly: shine-through of chronic disease, scalp whose fat is not suppressed, faint infarcts of
the first hours and ghosts, signal piled up near air. The fifth has all that is bright at any of them, on a scanner of
its own (another b-value, other slices): what a federation promises is to know there what its members know together.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from hospitals.anatomy import load_head
from hospitals.cohorts import Cohort
from hospitals.imaging import LPS_TO_RAS, acquire
from hospitals.lesions import grown
from hospitals.scanners import SCANNERS, Scanner

from fedsite.files import write_atomically

if TYPE_CHECKING:
    from fedsite.dataset.cases import Content

Split = Literal["training", "validation", "test"]

TASK = "stroke-dwi"
CHANNELS = ("dwi",)
SPACING_MM = (4.0, 4.0, 4.0)

_LARGER_PIXELS = 1.5
"""Enough for cases of 4 mm, and quicker to make; slices stay as they are."""


@dataclass(frozen=True)
class Hospital:
    """A name, a scanner, and who comes."""

    name: str
    scanner: Scanner
    cohort: Cohort


def _with_larger_pixels(scanner: Scanner) -> Scanner:
    matrix, pixel_mm = round(scanner.matrix / _LARGER_PIXELS), scanner.pixel_mm * _LARGER_PIXELS
    return replace(scanner, matrix=matrix, pixel_mm=pixel_mm)


_SCANNER = {scanner.name: _with_larger_pixels(scanner) for scanner in SCANNERS}

TRAINED = (
    Hospital(
        "alder",
        _SCANNER["siemens"],
        Cohort(
            lesion_ml=(20, 150),
            adc_drop=(0.38e-3, 0.55e-3),
            t2_rise=(0.1, 0.5),
            spared=(-1.5, 0.2),
            chronic_t2_rise=1.0,
        ),
    ),
    Hospital(
        "birch",
        replace(_SCANNER["philips"], fat=0.35, fat_shift_mm=28.0),
        Cohort(lesion_ml=(20, 100), adc_drop=(0.40e-3, 0.56e-3), t2_rise=(0.15, 0.55), spared=(1.2, 2.0)),
    ),
    Hospital(
        "cedar",
        replace(_SCANNER["ge"], noise=0.040, bias=0.12, ghost=0.10, pile_up=(0.0, 0.2)),
        Cohort(lesion_ml=(20, 150), adc_drop=(0.33e-3, 0.46e-3), t2_rise=(0.05, 0.3), spared=(1.2, 2.0)),
    ),
    Hospital(
        "dogwood",
        replace(_SCANNER["canon"], noise=0.050, pile_up=(0.8, 1.8)),
        Cohort(lesion_ml=(20, 120), adc_drop=(0.40e-3, 0.56e-3), t2_rise=(0.15, 0.55), spared=(0.8, 2.0)),
    ),
)
UNSEEN = Hospital(
    "elder",
    replace(_SCANNER["united"], pile_up=(0.8, 1.8), fat=0.35, ghost=0.05),
    Cohort(
        lesion_ml=(20, 120),
        adc_drop=(0.38e-3, 0.55e-3),
        t2_rise=(0.1, 0.5),
        spared=(-1.2, 0.4),
        chronic_t2_rise=1.0,
    ),
)
HOSPITALS = (*TRAINED, UNSEEN)


def make_cases(folder: Path, hospital: Hospital, split: Split, patients: int, seed: int) -> list[Path]:
    """The prepared cases of so many patients: acquired, preprocessed by the task, in the project's case store.

    Every patient follows from hospital, split, seed and number alone. What is there already is not made again.
    """
    from fedsite.dataset.cases import write_case

    listed = folder / "cases.txt"
    if not listed.exists():
        files = [
            write_case(folder, f"e-{number:04}", _prepared(hospital, split, number, seed))[0]
            for number in range(patients)
        ]
        write_atomically(listed, "\n".join(files).encode())
    return [folder / name for name in listed.read_text().split()]


def _prepared(hospital: Hospital, split: Split, number: int, seed: int) -> "Content":
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
    prepared = registry.module(TASK).preprocessing(task, SPACING_MM)(
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
