"""Small data sets of NIfTI files laid out as the Medical Segmentation Decathlon, nnU-Net, BraTS and ATLAS v2.0 are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.bids_maker import Head, head, write_nifti

TASK01 = {
    "name": "BRATS",
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}


def tumour(seed: int = 0, core: int = 1, oedema: int = 2, enhancing: int = 3) -> Head:
    """A head with a lesion of three kinds, one after the other along its third axis."""
    content = head(seed, stripped=True, lesion_mm=18)
    slices = np.flatnonzero(content.mask.any(axis=(0, 1)))
    mask = content.mask.copy()
    for value, part in zip((core, oedema, enhancing), np.array_split(slices, 3), strict=True):
        mask[:, :, part] *= value
    return replace(content, mask=mask)


def contrasts(content: Head, count: int = 4) -> list[NDArray[np.float32]]:
    """Images of one head that differ by a factor, so that each can be told: times 1, 2, 3 ..."""
    return [content.image * (number + 1) for number in range(count)]


def write_brats(folder: Path, name: str, content: Head, endings: Sequence[str], separator: str = "-") -> Path:
    """A folder of one examination: an image for each ending (the first as it is, the second times 2 ...), the mask."""
    place = folder / name
    for ending, image in zip(endings, contrasts(content, len(endings)), strict=True):
        write_nifti(place / f"{name}{separator}{ending}.nii.gz", image, content.affine)
    return write_nifti(place / f"{name}{separator}seg.nii.gz", content.mask, content.affine)


def write_decathlon(
    folder: Path, name: str, content: Head, channels: int = 4, description: Mapping[str, Any] | None = None
) -> Path:
    """One image of several volumes and its mask; `dataset.json` as Task01 has it, or as given."""
    image = np.stack(contrasts(content, channels), axis=-1)
    write_nifti(folder / "imagesTr" / f"{name}.nii.gz", image.squeeze(), content.affine)
    (folder / "dataset.json").write_text(json.dumps(TASK01 if description is None else description))
    return write_nifti(folder / "labelsTr" / f"{name}.nii.gz", content.mask, content.affine)


def write_nnunet(folder: Path, name: str, content: Head, channels: int = 4) -> Path:
    """One file for each image, numbered, and the mask."""
    for number, image in enumerate(contrasts(content, channels)):
        write_nifti(folder / "imagesTr" / f"{name}_{number:04d}.nii.gz", image, content.affine)
    return write_nifti(folder / "labelsTr" / f"{name}.nii.gz", content.mask, content.affine)


def write_atlas(folder: Path, subject: str, content: Head) -> Path:
    """A subject as ATLAS v2.0 has it: image and mask side by side, both in a template's space."""
    name = f"sub-{subject}_ses-1_space-MNI152NLin2009aSym"
    place = folder / "Training" / subject[:4].upper() / f"sub-{subject}" / "ses-1" / "anat"
    write_nifti(place / f"{name}_T1w.nii.gz", content.image, content.affine)
    return write_nifti(place / f"{name}_label-L_desc-T1lesion_mask.nii.gz", content.mask, content.affine)
