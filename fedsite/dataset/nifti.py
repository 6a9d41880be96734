"""NIfTI-1 and NIfTI-2 files (nibabel): the geometry by itself, and the voxels."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from fedsite.errors import DataNotFit, SourceMissing
from fedsite.files import atomic_writer

Image = Any
"""An image of nibabel's, which carries no types."""

ENDINGS = (".nii.gz", ".nii")
_BROKEN = (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error, gzip.BadGzipFile, OverflowError)
_FLAT = 1e-9
# Of NIfTI's codes (nifti1.h, NIFTI_XFORM_*) those of coordinates that more than one image can share.
_FRAMES = {1: "scanner", 3: "talairach", 4: "mni152"}
_MEND = "Export it again, or leave it out."


@dataclass(frozen=True)
class Geometry:
    """Where the voxels lie: the size of every axis, and the affine from indices to RAS coordinates in mm.

    `stated` is False where the header gives neither a qform nor an sform (the affine is then a guess), or one that
    holds no volume. `frame` names the coordinates where they are the same for all images of an examination.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    stated: bool
    frame: str


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
        code = int(header["sform_code"]) or int(header["qform_code"])  # in nibabel's order
        stated = code > 0 and bool(np.isfinite(affine).all()) and abs(float(np.linalg.det(affine))) > _FLAT
    except (KeyError, ValueError):
        raise DataNotFit("The file has no NIfTI header.", _MEND) from None
    return Geometry(_without_trailing_ones(image.shape), affine, stated, _FRAMES.get(code, ""))


def read_voxels(path: Path, volume: int | None = None) -> NDArray[np.float32]:
    """The values, or those of one volume, with the header's slope and intercept applied.

    Of a compressed file no more is read than up to that volume's end. Raises DataNotFit, SourceMissing.
    """
    image = _load(path)
    try:
        stored = image.dataobj if volume is None else image.dataobj[_place(image.shape, volume)]
        values = np.asarray(stored, dtype=np.float32)
    except FileNotFoundError:
        raise _vanished() from None
    except _BROKEN:
        raise _damaged() from None
    return values.reshape(_without_trailing_ones(values.shape))


@dataclass(frozen=True)
class Part:
    """Some of the volumes in a file of several."""

    path: Path = field(repr=False)
    volumes: tuple[int, ...]


def read_part(part: Part) -> Iterator[NDArray[np.float32]]:
    """Each volume of a part, with the header's slope and intercept applied. Raises DataNotFit, SourceMissing."""
    image = _load(part.path)
    try:
        # As stored, for a whole series as float32 is two to four times as large.
        stored = image.dataobj.get_unscaled()
        slope, intercept = np.float32(image.dataobj.slope), np.float32(image.dataobj.inter)
    except FileNotFoundError:
        raise _vanished() from None
    except _BROKEN:
        raise _damaged() from None
    for index in part.volumes:
        yield stored[_place(stored.shape, index)].astype(np.float32) * slope + intercept


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


def write(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], mode: int = 0o644) -> None:
    """Writes voxels [i, j, k] as NIfTI-1 (compressed), in their own type; `affine` leads to RAS mm of the scanner.

    Raises CannotWrite.
    """
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    with (
        atomic_writer(path, mode) as file,
        # No name and no time in the gzip header: the same volume gives the same bytes.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream,
    ):
        image.to_stream(stream)


def _load(path: Path) -> Image:
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise _vanished() from None
    except _BROKEN:
        raise DataNotFit("The file is no readable NIfTI file.", _MEND) from None


def _place(shape: tuple[int, ...], volume: int) -> tuple[slice | int, ...]:
    """The indices of one volume in an array that may have axes of length 1 beyond the fourth."""
    every = slice(None)
    return (every, every, every, volume, *(0 for _ in shape[4:]))


def _damaged() -> DataNotFit:
    return DataNotFit("The file's voxels cannot be read: it is truncated or damaged.", _MEND)


def _vanished() -> SourceMissing:
    return SourceMissing(
        "A file of the source vanished while it was read.", "See that the source is mounted; run the command again."
    )


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(int(side) for side in shape)
