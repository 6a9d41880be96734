"""What a mask can be kept in: one class for each kind of file, all read the same way (`studies.MaskSource`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.checks import PlacedMask, place_mask
from fedsite.dataset.studies import ImageSource
from fedsite.dicom.label_objects import LabelObject
from fedsite.dicom.labels import read_label
from fedsite.dicom.model import Volume


@dataclass(frozen=True)
class NiftiMask:
    """A mask in a NIfTI file, drawn on the grid of its image."""

    id: str
    path: Path = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def read(self, reference: ImageSource) -> PlacedMask:
        """As `studies.MaskSource` says: the file's values, its axes turned into the order of the image's."""
        geometry = nifti.read_geometry(self.path)
        values = nifti.read_voxels(self.path)
        return place_mask(values, geometry.affine, reference.shape, reference.affine, reference.id)


@dataclass(frozen=True)
class LabelMask:
    """A DICOM label object; `drawn_on` are the volumes that it names, all on the grid of its image.

    `names` are the task's labels by value, without the background.
    """

    id: str
    label: LabelObject = field(repr=False)
    drawn_on: tuple[Volume, ...] = field(repr=False)
    names: Mapping[int, str]

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file, which may be an archive."""
        return (Path(self.label.path),)

    def read(self, reference: ImageSource) -> PlacedMask:
        """As `studies.MaskSource` says: the parts that stand for labels, with the labels' values."""
        marked = read_label(self.label, self.drawn_on, self.names)
        return PlacedMask(marked.values, tuple(replace(problem, where=reference.id) for problem in marked.findings))
