"""Small BIDS folders with images and masks that look enough like a head to be judged as one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (40, 44, 16)
SPACING = (4.0, 4.0, 6.0)


@dataclass(frozen=True)
class Head:
    """Voxels on one grid: `image` float32, `mask` uint8, `affine` RAS mm."""

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


def affine_of(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = SPACING) -> NDArray[np.float64]:
    """Axes to the left, front and top, the centre of the grid at the origin: as scanners' axial series lie."""
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def head(seed: int = 0, stripped: bool = False, lesion_mm: float = 14.0) -> Head:
    """A brain in a head in noise (or the brain alone in exact zeros), with one bright lesion of the given radius."""
    random = np.random.default_rng(seed)
    affine = affine_of()
    indices = np.stack(np.meshgrid(*[np.arange(side) for side in SHAPE], indexing="ij"), -1)
    x, y, z = np.moveaxis(indices @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    brain = (x / 62) ** 2 + (y / 74) ** 2 + (z / 46) ** 2 < 1
    scalp = ((x / 74) ** 2 + (y / 86) ** 2 + (z / 60) ** 2 < 1) & ~((x / 68) ** 2 + (y / 80) ** 2 + (z / 54) ** 2 < 1)
    centre = random.uniform([-30, -30, -12], [30, 30, 12])
    lesion = brain & ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < lesion_mm**2)
    image = 300.0 * brain + 90.0 * scalp + 500.0 * lesion
    if stripped:
        image = np.where(brain, image + random.normal(0, 12, SHAPE), 0)
    else:
        image = np.hypot(image + random.normal(0, 12, SHAPE), random.normal(0, 12, SHAPE))
    return Head(image.astype(np.float32), lesion.astype(np.uint8), affine)


def dim_rim(stripped: Head, factor: float = 0.18) -> Head:
    """A stripped head whose brain is darker at its rim: near what tells a scalp."""
    brain = stripped.image > 0
    inner = np.zeros(brain.shape, bool)
    inner[2:-2, 2:-2] = True
    for axis in (0, 1):
        inner &= np.roll(brain, 1, axis) & np.roll(brain, -1, axis)
    image = np.where(brain & ~inner, stripped.image * factor, stripped.image)
    return Head(image.astype(np.float32), stripped.mask, stripped.affine)


def write_nifti(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    """Writes a NIfTI-1 file with sform and qform set; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


def write_subject(
    folder: Path,
    subject: str,
    content: Head,
    session: str = "",
    sidecar: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Writes `sub-X[_ses-Y]_dwi.nii.gz` with its sidecar and, below derivatives, its mask; gives both paths."""
    name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    place = Path(f"sub-{subject}") / (f"ses-{session}" if session else "")
    image = write_nifti(folder / place / "dwi" / f"{name}_dwi.nii.gz", content.image, content.affine)
    mask = write_nifti(folder / "derivatives" / place / f"{name}_msk.nii.gz", content.mask, content.affine)
    known = {"Modality": "MR", "DiffusionBValue": 1000, "Manufacturer": "ACME", "ManufacturersModelName": "Field 3"}
    image.with_name(f"{name}_dwi.json").write_text(json.dumps(known if sidecar is None else dict(sidecar)))
    return image, mask
