"""Whole studies as DICOM: a head's diffusion series, and its mask."""

import dataclasses
from pathlib import Path

import numpy as np
from support.bids_maker import Head, write_nifti
from support.dicom_maker import Grid, Names, classic, names, write


def write_dicom(export: Path, labels: Path, content: Head, who: Names, **attributes: str) -> None:
    """The head as a series of trace images, b0 and a localizer beside it, its mask named after the series."""
    columns, rows, slices = content.image.shape
    corner = content.affine @ [0, rows - 1, 0, 1]
    grid = Grid(
        columns=columns,
        rows=rows,
        slices=slices,
        between_columns=4.0,
        between_rows=4.0,
        step=6.0,
        origin=(-corner[0], -corner[1], corner[2]),
    )
    stored = content.image.transpose(2, 1, 0)[:, ::-1].astype(np.uint16)
    trace = {"DiffusionBValue": 1000.0, "DiffusionDirectionality": "ISOTROPIC", **attributes}
    plain = {"DiffusionBValue": 0.0, "DiffusionDirectionality": "NONE", **attributes}
    write(export, classic(grid=grid, voxels=stored, who=who, ImageType=["DERIVED", "PRIMARY", "TRACEW"], **trace))
    write(export, classic(grid=grid, voxels=stored // 2, who=dataclasses.replace(who, series=names().series), **plain))
    write_nifti(labels / f"{who.series}_mask.nii.gz", content.mask, content.affine)
