"""NIfTI-1 and NIfTI-2 files (nibabel): the geometry by itself, and the voxels."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from fedsite.errors import DataNotFit, SourceMissing

ENDINGS = (".nii.gz", ".nii")
_BROKEN = (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error, gzip.BadGzipFile, OverflowError)
_FLAT = 1e-9
_MEND = "Export it again, or leave it out."


@dataclass(frozen=True)
class Geometry:
    """Where the voxels lie: the size of every axis, and the affine from indices to RAS coordinates in mm.

    `stated` is False where the header gives neither a qform nor an sform (the affine is then a guess), or one that
    holds no volume.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    stated: bool


def is_nifti(path: Path) -> bool:
    """Whether a file is called like a NIfTI file."""
    return path.name.lower().endswith(ENDINGS)


def stem(path: Path) -> str:
    """The file's name without its NIfTI ending."""
    ending = next(ending for ending in ENDINGS if path.name.lower().endswith(ending))
    return path.name[: -len(ending)]


def find(folder: Path) -> Iterator[Path]:
    """Every NIfTI file below a folder, in order of its path; hidden files and folders are passed over."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_nifti(path) and not hidden and path.is_file():
            yield path


def read_geometry(path: Path) -> Geometry:
    """The header's geometry; trailing axes of length 1 are dropped. Raises DataNotFit, SourceMissing."""
    image = _load(path)
    header = image.header
    try:
        affine = np.array(image.affine, np.float64)
        coded = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
        stated = coded and bool(np.isfinite(affine).all()) and abs(float(np.linalg.det(affine))) > _FLAT
    except (KeyError, ValueError):
        raise DataNotFit("The file has no NIfTI header.", _MEND) from None
    return Geometry(_without_trailing_ones(image.shape), affine, stated)


def read_voxels(path: Path) -> NDArray[np.float32]:
    """The values with the header's slope and intercept applied. Raises DataNotFit, SourceMissing."""
    image = _load(path)
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    except FileNotFoundError:
        raise _vanished() from None
    except _BROKEN:
        raise DataNotFit("The file's voxels cannot be read: it is truncated or damaged.", _MEND) from None
    return values.reshape(_without_trailing_ones(image.shape))


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON that BIDS puts beside an image; empty where there is none. Raises DataNotFit when it is no JSON."""
    sidecar = path.with_name(f"{stem(path)}.json")
    try:
        content = json.loads(sidecar.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise DataNotFit("The image's JSON sidecar is not JSON.", _MEND) from None
    return content if isinstance(content, dict) else {}


def _load(path: Path) -> Any:  # noqa: ANN401 - nibabel carries no types
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise _vanished() from None
    except _BROKEN:
        raise DataNotFit("The file is no readable NIfTI file.", _MEND) from None


def _vanished() -> SourceMissing:
    return SourceMissing(
        "A file of the source vanished while it was read.", "See that the source is mounted; run the command again."
    )


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(int(side) for side in shape)
