"""The case store: one file per case, read by memory map, so that a training patch touches only what it needs.

The format is safetensors (https://github.com/huggingface/safetensors): a length, a JSON header, raw little-endian
values; no pickle, no code. `image` is float16 [C, X, Y, Z], `label` uint8 [X, Y, Z], both in C order on the prepared
grid (RAS). Equal content gives equal bytes, and the file's name carries the first digits of their SHA-256: a case
that is prepared anew never overwrites the one that a manifest still points to.
"""

import hashlib
import json
import math
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fedsite.errors import DataNotFit, SourceMissing
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, make_folder, sha256_of, write_atomically

FOLDER = "cases"
_NAME_DIGITS = 12
_STORED = re.compile(rf"^[a-z]-[a-z0-9]+-[0-9a-f]{{{_NAME_DIGITS}}}\.safetensors$")
_LARGEST_HEADER = 4096
# For each array its type's name in safetensors, bytes a value, and number of axes.
_ARRAYS = {"image": ("F16", 2, 4), "label": ("U8", 1, 3)}
_MEND = "Prepare the data again: fedsite prepare-data."


@dataclass(frozen=True)
class Case:
    """One case under its pseudonym: `image` float16 [C, X, Y, Z], `label` uint8 [X, Y, Z]."""

    id: str
    image: NDArray[np.float16]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class EncodedCase:
    """A case as bytes, with the name (relative to the prepared folder) under which it is stored.

    `image_sha256` is the digest of the image alone, by which one image under two patients' ids is told.
    """

    file: str
    sha256: str
    image_sha256: str
    content: bytes


def encode_case(case_id: str, image: NDArray[np.float16], label: NDArray[np.uint8]) -> EncodedCase:
    """The stored form of a case. Raises DataNotFit on values that float16 cannot hold, or shapes that differ."""
    if image.ndim != 4 or label.shape != image.shape[1:] or not label.size:
        raise DataNotFit(f"Case {case_id}: image {image.shape} and label {label.shape} are not on one grid.", _MEND)
    if not np.isfinite(image).all():
        raise DataNotFit(
            f"Case {case_id}: the prepared image holds values beyond float16 (65504), or no numbers.",
            "The task's preprocessing must scale intensities.",
        )
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray[Any, Any]] = {
        "image": np.ascontiguousarray(image, np.float16),
        "label": np.ascontiguousarray(label, np.uint8),
    }
    content = save(arrays)
    digest = hashlib.sha256(content).hexdigest()
    of_image = hashlib.sha256(arrays["image"].tobytes()).hexdigest()
    return EncodedCase(f"{FOLDER}/{case_id}-{digest[:_NAME_DIGITS]}.safetensors", digest, of_image, content)


def write_case(folder: Path, case_id: str, image: NDArray[np.float16], label: NDArray[np.uint8]) -> tuple[str, str]:
    """Stores a case below the prepared `folder`, durably; gives its relative file name and SHA-256.

    Raises DataNotFit as `encode_case` does, CannotWrite when the folder does not take the file.
    """
    encoded = encode_case(case_id, image, label)
    store_case(folder, encoded)
    return encoded.file, encoded.sha256


def store_case(folder: Path, encoded: EncodedCase) -> None:
    """Writes an encoded case (mode 0600: it is a patient's image). Raises CannotWrite."""
    make_folder(folder / FOLDER, PRIVATE_FOLDER)
    write_atomically(folder / encoded.file, encoded.content, PRIVATE_FILE)


def open_case(path: Path) -> Case:
    """Maps a case into memory, read-only. Raises SourceMissing when it is absent, DataNotFit when it is no case."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= _LARGEST_HEADER else b""
        size = path.stat().st_size
    except FileNotFoundError:
        raise SourceMissing(f"The case {path.name} is not there.", _MEND) from None
    shapes, offsets = _layout(path.name, header, size - 8 - length)
    image = np.memmap(path, np.float16, "r", 8 + length + offsets["image"], shapes["image"])
    label = np.memmap(path, np.uint8, "r", 8 + length + offsets["label"], shapes["label"])
    # Otherwise the system reads ahead: of a case of 21 MB 16 MB came from the disk for a patch of 48 voxels a side, and
    # 1.6 MB do so. The label is looked through as a whole.
    assert isinstance(image.base, mmap.mmap)
    image.base.madvise(mmap.MADV_RANDOM)
    return Case(path.stem.rpartition("-")[0], image, label)


class CaseFiles(Sequence[Case]):
    """Cases by their paths, each mapped only when it is asked for: any number of them costs no memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> "CaseFiles": ...
    def __getitem__(self, index: int | slice) -> "Case | CaseFiles":
        """The case at an index; raises as `open_case` does."""
        return CaseFiles(self._paths[index]) if isinstance(index, slice) else open_case(self._paths[index])


def stored(folder: Path) -> list[Path]:
    """The case files in a folder of cases; whatever else lies there is not ours and is not named."""
    return [path for path in folder.glob("*.safetensors") if _STORED.match(path.name)]


def verify_case(path: Path, sha256: str) -> None:
    """Compares a case's bytes with the manifest's checksum. Raises DataNotFit (or SourceMissing)."""
    if sha256_of(path) != sha256:
        raise DataNotFit(f"The case {path.name} is not what the manifest says: its checksum differs.", _MEND)


def _layout(name: str, header: bytes, data_bytes: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and offsets of the two arrays. Everything that is not exactly a case is refused."""
    damaged = DataNotFit(f"The case {name} is damaged.", _MEND)
    try:
        entries: dict[str, Any] = json.loads(header)
        entries.pop("__metadata__", None)
        if entries.keys() != _ARRAYS.keys():
            raise damaged
        shapes: dict[str, tuple[int, ...]] = {}
        offsets: dict[str, int] = {}
        ends: list[int] = []
        total = 0
        for key, (kind, width, axes) in _ARRAYS.items():
            shape = tuple(int(side) for side in entries[key]["shape"])
            start, end = (int(edge) for edge in entries[key]["data_offsets"])
            whole = len(shape) == axes and min(shape) > 0 and start >= 0
            if not whole or entries[key]["dtype"] != kind or end - start != math.prod(shape) * width:
                raise damaged
            shapes[key], offsets[key] = shape, start
            ends.append(end)
            total += end - start
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None
    if max(ends) != data_bytes or total != data_bytes or shapes["image"][1:] != shapes["label"]:
        raise damaged
    return shapes, offsets
