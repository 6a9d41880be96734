"""What a mask can be kept in: one class for each kind of file, all read the same way (`studies.MaskSource`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import nifti
from fedsite.dataset.checks import PlacedMask, place_mask
from fedsite.dataset.studies import ImageSource
from fedsite.dicom import regrid
from fedsite.dicom.checks import finding
from fedsite.dicom.labels.objects import LabelObject
from fedsite.dicom.labels.reading import read_label
from fedsite.dicom.model import Volume


@dataclass(frozen=True)
class NiftiMask:
    """A mask in a NIfTI file, drawn on the grid of its image, or on the tilted slices that it was resampled from."""

    id: str
    path: Path = field(repr=False)
    label_values: Mapping[int, int] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def read(self, reference: ImageSource) -> PlacedMask:
        """As `studies.MaskSource` says: the file's values, its axes turned into the order of the image's."""
        geometry = nifti.read_geometry(self.path)
        values = nifti.read_voxels(self.path)
        placed = place_mask(values, geometry.affine, reference.shape, reference.affine, reference.id)
        origin = reference.origin[0] if isinstance(reference.origin, tuple) else reference.origin
        plan = origin.regrid if isinstance(origin, Volume) else None
        if plan is not None and plan.acquired_affine is None and placed.values.shape == plan.acquired_shape:
            # NIfTI cannot say that slices are uneven: drawn on them or on the even grid, the header is the same.
            reason = "its image has uneven slices, whose places a NIfTI file cannot hold"
            return PlacedMask(placed.values, (finding("label-other-grid", reference.id, reason=reason),))
        if placed.fits or plan is None or plan.acquired_affine is None:
            return placed
        drawn = place_mask(values, geometry.affine, plan.acquired_shape, plan.acquired_affine, reference.id)
        if not drawn.fits or not _is_label(drawn.values):
            return placed
        return PlacedMask(regrid.apply_labels(plan, drawn.values.astype(np.uint8)), drawn.findings)


@dataclass(frozen=True)
class LabelMask:
    """A DICOM label object; `drawn_on` are the volumes that it names, all on the grid of its image.

    `names` are the task's labels by value, without the background.
    """

    id: str
    label: LabelObject = field(repr=False)
    drawn_on: tuple[Volume, ...] = field(repr=False)
    names: Mapping[int, str]
    label_values: Mapping[int, int] = field(default_factory=dict, init=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file, which may be an archive."""
        return (Path(self.label.path),)

    def read(self, reference: ImageSource) -> PlacedMask:
        """As `studies.MaskSource` says: the parts that stand for labels, with the labels' values."""
        marked = read_label(self.label, self.drawn_on, self.names)
        return PlacedMask(marked.values, tuple(replace(problem, where=reference.id) for problem in marked.findings))


def _is_label(values: NDArray[Any]) -> bool:
    """Whether all values are those of labels; others are refused as they are."""
    with np.errstate(invalid="ignore"):
        return bool((values == values.astype(np.uint8)).all())
