"""What a mask can be kept in: one class for each kind of file, all read the same way (`studies.MaskSource`)."""

from dataclasses import dataclass, field
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.checks import PlacedMask, place_mask
from fedsite.dataset.studies import ImageSource


@dataclass(frozen=True)
class NiftiMask:
    """A mask in a NIfTI file, drawn on the grid of its image."""

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
