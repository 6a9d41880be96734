"""Encapsulated pixel data (PS3.5 section A.4): which bytes of the file are the compressed frames.

A frame is one or more fragments. How they belong together is said, in this order, by their number, by the basic offset
table, by the signatures with which frames begin.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

_ITEM = (0xFFFE, 0xE000)
_HEAD = struct.Struct("<HHL")
# What a frame begins with: JPEG and JPEG-LS, a JPEG 2000 codestream, a JPEG 2000 file.
_SIGNATURES = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")


@dataclass(frozen=True)
class _Fragment:
    """Where the value of an item lies in the file, in bytes."""

    start: int
    length: int


def compressed_frames(file: BinaryIO, offset: int, count: int, wanted: Sequence[int]) -> Iterator[bytes]:
    """The compressed frames numbered `wanted` (ascending) of the `count` in the pixel data whose value is at `offset`.

    Raises ValueError where the fragments do not say what frames they are.
    """
    file.seek(offset)
    table, *fragments = _fragments(file)
    if count == 1:
        frames = [fragments]
    elif len(fragments) == count:
        frames = [[fragment] for fragment in fragments]
    else:
        frames = _grouped(file, table, fragments)
    if len(frames) != count:
        raise ValueError("another number of frames than the header says")
    for index in wanted:
        yield b"".join(_content(file, fragment) for fragment in frames[index])


def _fragments(file: BinaryIO) -> list[_Fragment]:
    """Every item up to the delimiter; the first is the basic offset table. Where they end was seen by the scan."""
    found: list[_Fragment] = []
    while True:
        group, element, length = _HEAD.unpack(file.read(_HEAD.size))
        if (group, element) != _ITEM:
            return found
        found.append(_Fragment(file.tell(), length))
        file.seek(length, os.SEEK_CUR)


def _grouped(file: BinaryIO, table: _Fragment, fragments: Sequence[_Fragment]) -> list[list[_Fragment]]:
    """Fragments put together to frames."""
    if table.length:
        content = _content(file, table)
        # Offsets count from the first item after the table, to the beginning of an item.
        first = fragments[0].start
        starts = {first + start for start in struct.unpack(f"<{len(content) // 4}L", content[: len(content) & ~3])}
        begins = [fragment.start in starts for fragment in fragments]
    else:
        begins = [_content(file, fragment, 8).startswith(_SIGNATURES) for fragment in fragments]
    frames: list[list[_Fragment]] = []
    for fragment, begin in zip(fragments, begins, strict=True):
        if begin or not frames:
            frames.append([])
        frames[-1].append(fragment)
    return frames


def _content(file: BinaryIO, fragment: _Fragment, most: int = -1) -> bytes:
    file.seek(fragment.start)
    return file.read(fragment.length if most < 0 else min(fragment.length, most))
