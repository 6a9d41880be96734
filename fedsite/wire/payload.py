"""Models and updates on the wire: safetensors, little-endian, contiguous, without surprises.

A `Layout` is the closed description (names, shapes, dtype, in order) that both sides derive from the plan's
model; a file is accepted only when its header is byte for byte the layout's header, so nothing that a file
claims about itself is ever believed. Format: https://huggingface.co/docs/safetensors (8-byte little-endian
header length, JSON header padded with spaces to 8 bytes, then the tensors' bytes in order, no gaps).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsite.files import atomic_writer
from fedsite.wire.messages import MalformedMessage, check_json

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 16
METADATA = "__metadata__"  # the format's own key: other readers would take it for text, not for a tensor
_DTYPES: dict[str, np.dtype[np.floating]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_CODES = {"float32": "F32", "float16": "F16"}


@dataclass(frozen=True)
class Tensor:
    """Name and shape of one tensor."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in their order on disk, and how their values are encoded."""

    tensors: tuple[Tensor, ...]
    encoding: str = "float32"

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """NumPy's type of the encoded values (little-endian)."""
        return _DTYPES[_CODES[self.encoding]]

    @property
    def values(self) -> int:
        """Number of values in all tensors: the dimension d of an update."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def header(self) -> bytes:
        """The file's first bytes, length field included."""
        entries: dict[str, object] = {}
        start = 0
        for tensor in self.tensors:
            end = start + tensor.size * self.dtype.itemsize
            entries[tensor.name] = {
                "dtype": _CODES[self.encoding],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
            start = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def file_bytes(self) -> int:
        """The exact size of a file of this layout."""
        return len(self.header) + self.values * self.dtype.itemsize

    def encoded(self, encoding: str) -> "Layout":
        """The same tensors in another encoding."""
        return Layout(self.tensors, encoding)


def layout_of(path: Path) -> Layout:
    """Reads the layout of a model file; raises MalformedMessage unless the file is exactly in our form.

    Our form: one floating encoding throughout, tensors without gaps or overlaps in header order, no metadata,
    and the size that follows from it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise MalformedMessage("the header's length is out of range")
        text = file.read(length)
    check_json(text)
    entries = json.loads(text)
    if not isinstance(entries, dict) or not 1 <= len(entries) <= MAX_TENSORS:
        raise MalformedMessage("the header names no tensors, or too many")
    tensors, codes = [], set()
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise MalformedMessage("an entry of the header is malformed")
        shape = entry["shape"]
        sides = shape if isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS else [0]
        if not all(type(side) is int and 0 < side < 1 << 31 for side in sides):
            raise MalformedMessage("a shape is malformed")
        if name == METADATA or not name.isprintable() or not isinstance(entry["dtype"], str):
            raise MalformedMessage("a name or type is malformed")
        tensors.append(Tensor(name, tuple(shape)))
        codes.add(entry["dtype"])
    encodings = [encoding for encoding, code in _CODES.items() if codes == {code}]
    if not encodings:
        raise MalformedMessage("the tensors are not all float32, nor all float16")
    layout = Layout(tuple(tensors), encodings[0])
    check_file(path, layout)
    return layout


def check_file(path: Path, layout: Layout) -> None:
    """Raises MalformedMessage unless the file has exactly this layout (size first, then the header's bytes)."""
    if path.stat().st_size != layout.file_bytes:
        raise MalformedMessage("the size is not that of the expected tensors")
    expected = layout.header
    with path.open("rb") as file:
        if file.read(len(expected)) != expected:
            raise MalformedMessage("names, shapes, types or offsets are not the expected ones")


def map_values(path: Path, layout: Layout) -> NDArray[np.floating]:
    """All values of a file as one flat, read-only, memory-mapped array (shape [layout.values])."""
    values: NDArray[np.floating] = np.memmap(
        path, dtype=layout.dtype, mode="r", offset=len(layout.header), shape=(layout.values,)
    )
    return values


def read_values(path: Path, layout: Layout, part: slice) -> NDArray[np.floating]:
    """The values of one slice, read rather than mapped: what a process maps and touches counts as its memory.

    Raises MalformedMessage when the file ends before the slice does.
    """
    offset = len(layout.header) + part.start * layout.dtype.itemsize
    values: NDArray[np.floating] = np.fromfile(path, layout.dtype, count=part.stop - part.start, offset=offset)
    if values.size != part.stop - part.start:
        raise MalformedMessage("the file ends before its tensors do")
    return values


def chunks(length: int, size: int = 1 << 18) -> Iterator[slice]:
    """Slices that cover `length` values, each of at most `size`: what keeps memory flat."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def tensors_of(path: Path) -> dict[str, NDArray[np.floating]]:
    """The tensors of a model file by name, memory-mapped and read-only."""
    layout = layout_of(path)
    values = map_values(path, layout)
    found, start = {}, 0
    for tensor in layout.tensors:
        found[tensor.name] = values[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return found


def write_model(path: Path, tensors: Mapping[str, NDArray[np.floating]], mode: int = 0o644) -> Layout:
    """Writes tensors, in their order, as a float32 model file in our form; gives its layout. Atomic and durable."""
    layout = Layout(tuple(Tensor(name, tuple(values.shape)) for name, values in tensors.items()))
    with atomic_writer(path, mode) as file:
        file.write(layout.header)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, dtype=layout.dtype).tobytes())
    return layout
