"""Where the stroke is: real lesion masks in MNI space where a folder of them is given, else grown shapes."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from hospitals.anatomy import CANVAS_SHAPE, GRID_MM, coordinates, load_head, onto_canvas
from hospitals.fields import FloatArray, smooth_field

VOXEL_ML = GRID_MM**3 / 1000

TERRITORIES: dict[str, tuple[tuple[float, float, float], float, tuple[float, float]]] = {
    "MCA, insula and operculum": ((42, 0, 8), 0.26, (15, 120)),
    "MCA, superior division": ((44, -8, 40), 0.16, (5, 60)),
    "MCA, inferior division": ((50, -45, 12), 0.16, (5, 70)),
    "lenticulostriate": ((25, -2, 8), 0.14, (3, 15)),
    "PCA": ((16, -80, 2), 0.12, (5, 50)),
    "ACA": ((8, 30, 38), 0.06, (5, 30)),
    "PICA": ((24, -66, -42), 0.06, (4, 30)),
    "thalamus": ((12, -18, 8), 0.04, (3, 6)),
}
"""Seed in MNI mm (right side), share of patients, volumes in ml: rounded from the usual frequencies of territories."""


def lesion_fractions(
    folder: Path | None, seed: int, share: tuple[int, int] = (0, 1), volumes_ml: tuple[float, float] = (4.0, 150.0)
) -> Iterator[FloatArray]:
    """Endless lesions: each the fraction of lesion per voxel of the canvas, float32 in [0, 1].

    From a folder of 1 mm masks (`*.nii.gz`, MNI space, axes along x, y, z) each mask of the wanted volume comes once
    before any comes twice; `share` = (index, of) gives hospitals masks that no other has. Every other one is mirrored.
    Raises FileNotFoundError where the folder holds no mask.
    """
    rng = np.random.default_rng([seed, share[0], 1])
    if folder is None:
        while True:
            yield grown(rng, volumes_ml)
    files = sorted(folder.glob("*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"no lesion masks (*.nii.gz) in {folder}")
    np.random.default_rng([seed, 2]).shuffle(files)  # the same order for every hospital, each takes its own share
    for number, path in enumerate(itertools.cycle(files[share[0] :: share[1]])):
        image = nib.load(path)
        fraction = onto_canvas((np.asanyarray(image.dataobj) > 0).astype(np.uint8), image.affine) * load_head().hull
        if volumes_ml[0] <= fraction.sum() * VOXEL_ML <= volumes_ml[1]:
            yield fraction[::-1].copy() if number % 2 else fraction


def grown(rng: np.random.Generator, volumes_ml: tuple[float, float]) -> FloatArray:
    """A shape of drawn volume around the seed of a drawn territory, with a ragged edge, inside the brain.

    The fraction of lesion per voxel of the canvas, float32 in [0, 1].
    """
    names = list(TERRITORIES)
    shares = np.array([TERRITORIES[name][1] for name in names])
    centre, _, territory_ml = TERRITORIES[names[rng.choice(len(names), p=shares / shares.sum())]]
    low, high = np.clip(territory_ml, *volumes_ml)
    volume_ml = np.exp(rng.uniform(np.log(low), np.log(max(high, low * 1.01))))
    seed_mm = np.array(centre) * (rng.choice([-1, 1]), 1, 1) + rng.normal(0, 4, 3)
    stretch = np.exp(rng.normal(0, 0.25, 3))
    distance_mm = np.sqrt(sum(((x - s) * f) ** 2 for x, s, f in zip(coordinates(), seed_mm, stretch, strict=True)))
    radius_mm = 10 * (3 * volume_ml / (4 * np.pi)) ** (1 / 3)
    score = distance_mm + 0.3 * radius_mm * smooth_field(rng, CANVAS_SHAPE, order=20)
    score = np.where(load_head().brain > 0.5, score, np.inf)
    voxels = round(volume_ml / VOXEL_ML)
    threshold = np.partition(score, voxels, axis=None)[voxels]
    fraction: FloatArray = np.clip((threshold - score) / GRID_MM + 0.5, 0, 1, dtype=np.float32)
    return fraction
