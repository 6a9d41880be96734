"""The case store: one file per case, read by memory map, so that a training patch touches only what it needs.

The format is safetensors (https://github.com/huggingface/safetensors): a length, a JSON header, raw little-endian
values; no pickle, no code. `image` is float16 [C, X, Y, Z], `label` uint8 [X, Y, Z], both in C order on the prepared
grid (RAS). With them are kept what would have to be looked for in each patch (where the label is not background) and
what the drawn mask was on its own grid, voxel by voxel marked, so that results can be measured there. What these are
(names of the inputs, grids) stands in the header's one metadata entry, as JSON.

Equal content gives equal bytes, and the file's name carries the first digits of their SHA-256: a case that is prepared
anew never overwrites the one that a manifest still points to.
"""

import hashlib
import json
import math
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedsite.dataset.lesions import marked_voxels
from fedsite.dataset.manifest import Closed, Size
from fedsite.dataset.restoring import SourceGrid
from fedsite.errors import DataNotFit, SourceMissing
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, make_folder, sha256_of, write_atomically

FOLDER = "cases"
VERSION = 2
_NAME_DIGITS = 12
_STORED = re.compile(rf"^[a-z]-[a-z0-9]+-[0-9a-f]{{{_NAME_DIGITS}}}\.safetensors$")
_LARGEST_HEADER = 1 << 14
_MOST_VOXELS = 2**31 - 1
# One entry only: with several, safetensors writes them in any order, and equal cases would differ in their bytes.
_ABOUT = "case"
# For each array its type, the type's name in safetensors, and the number of axes.
_ARRAYS: dict[str, tuple[type[np.generic], str, int]] = {
    "image": (np.float16, "F16", 4),
    "label": (np.uint8, "U8", 3),
    "foreground": (np.int32, "I32", 1),
    "source_voxels": (np.int32, "I32", 1),
    "source_values": (np.uint8, "U8", 1),
}
_MEND = "Prepare the data again: fedsite prepare-data."

Affine = NDArray[np.float64]
Row = tuple[float, float, float, float]


@dataclass(frozen=True)
class Content:
    """What a case is made of: `image` float16 [C, X, Y, Z], one for each of `inputs`, and `label` uint8 [X, Y, Z].

    Both lie on the grid that `affine` describes (RAS, mm). `source_label` uint8 [i, j, k] is the mask on the grid that
    it was drawn on. `missing` names the channels that the study did not have: their inputs are zero.
    """

    image: NDArray[np.float16]
    label: NDArray[np.uint8]
    affine: Affine
    inputs: tuple[str, ...]
    source_label: NDArray[np.uint8]
    source_affine: Affine
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One stored case under its pseudonym; arrays are mapped, read-only, and as in `Content`.

    `inputs` names what `image` holds, in order: all that is stored, or what was asked for.
    """

    id: str
    inputs: tuple[str, ...]
    missing: tuple[str, ...]
    image: NDArray[np.float16]
    label: NDArray[np.uint8]
    affine: Affine
    source_grid: SourceGrid
    _stored: dict[str, NDArray[Any]] = field(repr=False)

    def foreground(self) -> NDArray[np.int32]:
        """Where the label is not background: sorted indices into the label as it lies in memory (C order), mapped."""
        return self._stored["foreground"]

    def source_label(self) -> NDArray[np.uint8]:
        """The mask [i, j, k] on the grid that it was drawn on. Raises DataNotFit when the case is damaged."""
        mask = np.zeros(self.source_grid.shape, np.uint8)
        try:
            mask.ravel()[self._stored["source_voxels"]] = self._stored["source_values"]
        except IndexError:
            raise DataNotFit(f"The case {self.id} is damaged.", _MEND) from None
        return mask


@dataclass(frozen=True)
class EncodedCase:
    """A case as bytes, with the name (relative to the prepared folder) under which it is stored.

    `image_sha256` is the digest of the first input alone, by which one image under two patients' ids is told.
    """

    file: str
    sha256: str
    image_sha256: str
    content: bytes


class _About(Closed):
    """The metadata of a case."""

    version: Literal[2] = 2
    inputs: tuple[str, ...]
    missing: tuple[str, ...]
    affine: tuple[Row, Row, Row, Row]
    source_shape: Size
    source_affine: tuple[Row, Row, Row, Row]


def encode_case(case_id: str, content: Content) -> EncodedCase:
    """The stored form of a case. Raises DataNotFit on values that float16 cannot hold, or shapes that differ."""
    image, label = content.image, content.label
    if image.ndim != 4 or label.shape != image.shape[1:] or not label.size or len(image) != len(content.inputs):
        raise DataNotFit(f"Case {case_id}: image {image.shape} and label {label.shape} are not on one grid.", _MEND)
    if not np.isfinite(image).all():
        raise DataNotFit(
            f"Case {case_id}: the prepared image holds values beyond float16 (65504), or no numbers.",
            "The task's preprocessing must scale intensities.",
        )
    if max(label.size, content.source_label.size) > _MOST_VOXELS:
        raise DataNotFit(f"Case {case_id} has more than {_MOST_VOXELS} voxels.", "Leave the study out.")
    from safetensors.numpy import save

    foreground, _ = _sparse(label)
    voxels, values = _sparse(content.source_label)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "image": np.ascontiguousarray(image, np.float16),
        "label": np.ascontiguousarray(label, np.uint8),
        "foreground": foreground,
        "source_voxels": voxels,
        "source_values": values,
    }
    about = {
        "inputs": content.inputs,
        "missing": content.missing,
        "affine": content.affine.tolist(),
        "source_shape": content.source_label.shape,
        "source_affine": content.source_affine.tolist(),
    }
    stored = save(arrays, {_ABOUT: _About.model_validate(about).model_dump_json()})
    digest = hashlib.sha256(stored).hexdigest()
    of_image = hashlib.sha256(arrays["image"][0].tobytes()).hexdigest()
    return EncodedCase(f"{FOLDER}/{case_id}-{digest[:_NAME_DIGITS]}.safetensors", digest, of_image, stored)


def write_case(folder: Path, case_id: str, content: Content) -> tuple[str, str]:
    """Stores a case below the prepared `folder`, durably; gives its relative file name and SHA-256.

    Raises DataNotFit as `encode_case` does, CannotWrite when the folder does not take the file.
    """
    encoded = encode_case(case_id, content)
    store_case(folder, encoded)
    return encoded.file, encoded.sha256


def store_case(folder: Path, encoded: EncodedCase) -> None:
    """Writes an encoded case (mode 0600: it is a patient's image). Raises CannotWrite."""
    make_folder(folder / FOLDER, PRIVATE_FOLDER)
    write_atomically(folder / encoded.file, encoded.content, PRIVATE_FILE)


def open_case(path: Path, inputs: Sequence[str] = ()) -> Case:
    """Maps a case into memory, read-only, with the named inputs (all, if none is named) in that order.

    Raises SourceMissing when it is absent, DataNotFit when it is no case of this version or lacks an input.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= _LARGEST_HEADER else b""
        size = path.stat().st_size
    except FileNotFoundError:
        raise SourceMissing(f"The case {path.name} is not there.", _MEND) from None
    about, places = _layout(path.name, header, size - 8 - length)
    values = np.memmap(path, np.uint8, "r", 8 + length)
    # Otherwise the system reads ahead: of a case of 21 MB 16 MB came from the disk for a patch of 48 voxels a side, and
    # 1.6 MB do so.
    assert isinstance(values.base, mmap.mmap)
    values.base.madvise(mmap.MADV_RANDOM)
    stored = {
        key: values[start:end].view(_ARRAYS[key][0]).reshape(shape) for key, (shape, start, end) in places.items()
    }
    chosen = tuple(inputs) or about.inputs
    absent = [name for name in chosen if name not in about.inputs]
    if absent:
        raise DataNotFit(f"The case {path.name} has no input {absent[0]}.", _MEND)
    return Case(
        id=path.stem.rpartition("-")[0],
        inputs=chosen,
        missing=about.missing,
        image=_choose(stored["image"], [about.inputs.index(name) for name in chosen]),
        label=stored["label"],
        affine=np.array(about.affine),
        source_grid=SourceGrid(about.source_shape, np.array(about.source_affine)),
        _stored=stored,
    )


class CaseFiles(Sequence[Case]):
    """Cases by their paths, each mapped only when it is asked for: any number of them costs no memory.

    `inputs` are those that every case gives, in that order; all that it has, if none is named.
    """

    def __init__(self, paths: Sequence[Path], inputs: Sequence[str] = ()) -> None:
        self._paths = tuple(paths)
        self._inputs = tuple(inputs)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> "CaseFiles": ...
    def __getitem__(self, index: int | slice) -> "Case | CaseFiles":
        """The case at an index; raises as `open_case` does."""
        if isinstance(index, slice):
            return CaseFiles(self._paths[index], self._inputs)
        return open_case(self._paths[index], self._inputs)


def stored(folder: Path) -> list[Path]:
    """The case files in a folder of cases; whatever else lies there is not ours and is not named."""
    return [path for path in folder.glob("*.safetensors") if _STORED.match(path.name)]


def verify_case(path: Path, sha256: str) -> None:
    """Compares a case's bytes with the manifest's checksum. Raises DataNotFit (or SourceMissing)."""
    if sha256_of(path) != sha256:
        raise DataNotFit(f"The case {path.name} is not what the manifest says: its checksum differs.", _MEND)


def _sparse(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """What a mask marks: indices in C order, sorted, and the value at each."""
    places = marked_voxels(mask)
    flat = np.ravel_multi_index(tuple(places.T), mask.shape)
    order = np.argsort(flat)
    return flat[order].astype(np.int32), mask[tuple(places[order].T)]


class _Chosen:
    """Some inputs of a mapped image, as an array [C, X, Y, Z] of which no more is read than what is asked for."""

    def __init__(self, image: NDArray[np.float16], inputs: Sequence[int]) -> None:
        self._image, self._inputs = image, np.array(inputs)
        self.dtype, self.ndim, self.shape = image.dtype, image.ndim, (len(inputs), *image.shape[1:])

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, region: int | slice | tuple[int | slice, ...]) -> NDArray[np.float16]:
        first, *others = region if isinstance(region, tuple) else (region,)
        return self._image[(self._inputs[first], *others)]

    def __array__(self, dtype: type[np.generic] | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def _choose(image: NDArray[np.float16], inputs: Sequence[int]) -> NDArray[np.float16]:
    """Some inputs of an image: a view where they are evenly spaced, as nearly always."""
    steps = set(np.diff(inputs).tolist()) or {1}
    if len(steps) == 1 and min(steps) > 0:
        return image[inputs[0] : inputs[-1] + 1 : steps.pop()]
    # Not a copy: many cases are open at once. To whoever reads patches, or all of it, it is the array.
    return cast("NDArray[np.float16]", _Chosen(image, inputs))


Places = dict[str, tuple[tuple[int, ...], int, int]]


def _layout(name: str, header: bytes, data_bytes: int) -> tuple[_About, Places]:
    """What a case's header says: of each array the shape, and where it begins and ends.

    Everything that is not exactly a case is refused.
    """
    damaged = DataNotFit(f"The case {name} is damaged, or of an earlier version.", _MEND)
    try:
        entries: dict[str, Any] = json.loads(header)
        about = _About.model_validate_json(entries.pop("__metadata__")[_ABOUT])
        if entries.keys() != _ARRAYS.keys():
            raise damaged
        places = {key: _place(entries[key], *_ARRAYS[key]) for key in _ARRAYS}
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None
    total = sum(end - start for _, start, end in places.values())
    shapes = {key: shape for key, (shape, _, _) in places.items()}
    if (
        total != data_bytes
        or max(end for _, _, end in places.values()) != data_bytes
        or shapes["image"] != (len(about.inputs), *shapes["label"])
        or not math.prod(shapes["image"])
        or shapes["source_voxels"] != shapes["source_values"]
    ):
        raise damaged
    return about, places


def _place(entry: dict[str, Any], dtype: type[np.generic], kind: str, axes: int) -> tuple[tuple[int, ...], int, int]:
    """Shape, beginning and end of an array. Raises ValueError unless it is of this type and has as many axes."""
    shape = tuple(int(side) for side in entry["shape"])
    start, end = (int(edge) for edge in entry["data_offsets"])
    whole = len(shape) == axes and min(shape) >= 0 and start >= 0
    if not whole or entry["dtype"] != kind or end - start != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError("another array than it should be")
    return shape, start, end
