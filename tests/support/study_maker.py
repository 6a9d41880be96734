"""Whole studies as DICOM: a head's diffusion series or its CT, and its mask."""

import dataclasses
from pathlib import Path

import numpy as np
from support.bids_maker import Head, write_nifti
from support.dicom_maker import Grid, Names, classic, names, write

AIR, BONE, BRAIN, BLOOD = -1000, 900, 35, 70
"""Hounsfield units."""


def write_dicom(export: Path, labels: Path, content: Head, who: Names, **attributes: str) -> None:
    """The head as a series of trace images, b0 and a localizer beside it, its mask named after the series."""
    grid, stored = grid_of(content), stored_as(content.image)
    trace = {"DiffusionBValue": 1000.0, "DiffusionDirectionality": "ISOTROPIC", **attributes}
    plain = {"DiffusionBValue": 0.0, "DiffusionDirectionality": "NONE", **attributes}
    write(export, classic(grid=grid, voxels=stored, who=who, ImageType=["DERIVED", "PRIMARY", "TRACEW"], **trace))
    write(export, classic(grid=grid, voxels=stored // 2, who=dataclasses.replace(who, series=names().series), **plain))
    write_nifti(labels / f"{who.series}_mask.nii.gz", content.mask, content.affine)


def write_ct(export: Path, labels: Path, content: Head, who: Names, seed: int = 0) -> None:
    """The head as a CT whose lesion is blood, and its mask, named after the series."""
    noise = np.random.default_rng(seed).normal(0, 3, content.image.shape)
    tissue = np.select([content.mask > 0, content.image > 200, content.image > 60], [BLOOD, BRAIN, BONE], AIR)
    write(export, classic("CT", grid_of(content), stored_as(np.rint(tissue + noise) + 1024), who))
    write_nifti(labels / f"{who.series}_mask.nii.gz", content.mask, content.affine)


def grid_of(content: Head) -> Grid:
    """Where the head's voxels lie as a scanner's axial slices: its second axis runs the other way there."""
    columns, rows, slices = content.image.shape
    corner = content.affine @ [0, rows - 1, 0, 1]
    between_columns, between_rows, step = np.abs(np.diag(content.affine))[:3]
    return Grid(
        columns=columns,
        rows=rows,
        slices=slices,
        between_columns=between_columns,
        between_rows=between_rows,
        step=step,
        origin=(-corner[0], -corner[1], corner[2]),
    )


def stored_as(image: np.ndarray) -> np.ndarray:
    """Voxels [x, y, z] as stored values [slice, row, column]."""
    return image.transpose(2, 1, 0)[:, ::-1].astype(np.uint16)
