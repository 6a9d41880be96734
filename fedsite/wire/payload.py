"""Models and updates on the wire: safetensors, little-endian, contiguous, without surprises.

A `Layout` is the closed description (names, shapes, dtype, in order) that both sides derive from the plan's
model; a file is accepted only when its header is byte for byte the layout's header, so nothing that a file
claims about itself is ever believed. Format: https://huggingface.co/docs/safetensors (8-byte little-endian
header length, JSON header padded with spaces to 8 bytes, then the tensors' bytes in order, no gaps).

An int8 file begins with one more tensor, `SCALES`: by what float32 number the integers of each tensor are multiplied.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsite.files import atomic_writer
from fedsite.wire.messages import MalformedMessage, check_json

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 16
METADATA = "__metadata__"  # the format's own key: other readers would take it for text, not for a tensor
SCALES = "fedsite.scales"
SCALE = np.dtype("<f4")
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I8": np.dtype("i1")}
_CODES = {"float32": "F32", "float16": "F16", "int8": "I8"}


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
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type of the encoded values (little-endian)."""
        return _DTYPES[_CODES[self.encoding]]

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Where each tensor ends, counted in values."""
        return np.cumsum(self.sizes, dtype=np.int64)

    @property
    def scaled(self) -> bool:
        """Whether the stored values are integers, each tensor with a scale."""
        return self.encoding == "int8"

    @property
    def start(self) -> int:
        """The place in the file of the first value's first byte."""
        return len(self.header) + (len(self.tensors) * SCALE.itemsize if self.scaled else 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values in each tensor."""
        return tuple(tensor.size for tensor in self.tensors)

    @property
    def values(self) -> int:
        """Number of values in all tensors: the dimension d of an update."""
        return sum(self.sizes)

    @cached_property
    def header(self) -> bytes:
        """The file's first bytes, length field included."""
        entries: dict[str, object] = {}
        start = 0
        if self.scaled:
            start = len(self.tensors) * SCALE.itemsize
            entries[SCALES] = {"dtype": "F32", "shape": [len(self.tensors)], "data_offsets": [0, start]}
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
        return self.start + self.values * self.dtype.itemsize

    def encoded(self, encoding: str) -> "Layout":
        """The same tensors in another encoding."""
        return Layout(self.tensors, encoding)


def layout_of(path: Path) -> Layout:
    """Reads the layout of a model file; raises MalformedMessage unless the file is exactly in our form.

    Our form: one floating encoding throughout (int8 is for updates, whose layout is known), tensors without gaps or
    overlaps in header order, no metadata, and the size that follows from it.
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
        if name in (METADATA, SCALES) or not name.isprintable() or not isinstance(entry["dtype"], str):
            raise MalformedMessage("a name or type is malformed")
        tensors.append(Tensor(name, tuple(shape)))
        codes.add(entry["dtype"])
    encodings = [encoding for encoding, code in _CODES.items() if codes == {code} and encoding != "int8"]
    if not encodings:
        raise MalformedMessage("the tensors are not all float32, nor all float16")
    layout = Layout(tuple(tensors), encodings[0])
    check_file(path, layout)
    return layout


def check_file(path: Path, layout: Layout) -> None:
    """Raises MalformedMessage unless the file has exactly this layout (size first, then the header's bytes, then what
    scales it has: finite, and not negative).
    """
    if path.stat().st_size != layout.file_bytes:
        raise MalformedMessage("the size is not that of the expected tensors")
    expected = layout.header
    with path.open("rb") as file:
        if file.read(len(expected)) != expected:
            raise MalformedMessage("names, shapes, types or offsets are not the expected ones")
    if layout.scaled:
        scales = _scales(path, layout)
        if not (np.isfinite(scales) & ~np.signbit(scales)).all():
            raise MalformedMessage("a scale is negative or not finite")


def check_finite(path: Path, layout: Layout) -> None:
    """Raises MalformedMessage unless every value of the file is finite."""
    if not all(np.isfinite(read_values(path, layout, part)).all() for part in chunks(layout.values)):
        raise MalformedMessage("a value is not finite")


def map_values(path: Path, layout: Layout) -> NDArray[np.floating]:
    """All values of a file as one flat, read-only, memory-mapped array (shape [layout.values]); not of an int8 file."""
    assert not layout.scaled
    values: NDArray[np.floating] = np.memmap(
        path, dtype=layout.dtype, mode="r", offset=layout.start, shape=(layout.values,)
    )
    return values


def read_values(path: Path, layout: Layout, part: slice) -> NDArray[np.floating]:
    """The values of one slice, read rather than mapped: what a process maps and touches counts as its memory.

    Of an int8 file they are float64: an integer of 8 bits times a float32 scale needs no rounding there. Raises
    MalformedMessage when the file ends before the slice does.
    """
    values = _stored(path, layout.dtype, layout.start + part.start * layout.dtype.itemsize, part.stop - part.start)
    if not layout.scaled:
        return values
    first, last = np.searchsorted(layout.ends, (part.start, part.stop - 1), side="right")
    counts = np.diff(np.minimum(layout.ends[first : last + 1], part.stop), prepend=part.start)
    return values * np.repeat(_scales(path, layout).astype(np.float64)[first : last + 1], counts)


def _scales(path: Path, layout: Layout) -> NDArray[np.floating]:
    return _stored(path, SCALE, len(layout.header), len(layout.tensors))


def _stored(path: Path, dtype: np.dtype[Any], offset: int, count: int) -> NDArray[Any]:
    values: NDArray[Any] = np.fromfile(path, dtype, count=count, offset=offset)
    if values.size != count:
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
