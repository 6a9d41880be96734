"""Siemens' CSA header: a table of named values inside one private attribute, (0029,xx10) of "SIEMENS CSA HEADER".

The format was never published; this follows the description of the NiBabel project
(https://nipy.org/nibabel/dicom/siemens_csa.html). Both versions are read, the older one without the mark "SV10".
"""

import struct
from collections.abc import Collection

_MARK = b"SV10"
_SENTINELS = (77, 205)
_TAG = struct.Struct("<64si4s3i")  # name, how many values count, representation, type, items, sentinel
_ITEM = struct.Struct("<4i")

# More than any scanner writes: a damaged header must not keep a reader busy.
_MAX_TAGS, _MAX_ITEMS = 1024, 1024


def values(header: bytes, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The values of some tags, as text, without empty ones. What cannot be read is left out; nothing is raised."""
    is_second = header[:4] == _MARK
    offset = 8 if is_second else 0
    found: dict[str, tuple[str, ...]] = {}
    try:
        tags, sentinel = struct.unpack_from("<2i", header, offset)
        if sentinel not in _SENTINELS or not 0 < tags <= _MAX_TAGS:
            return {}
        offset += 8
        base = None if is_second else _TAG.unpack_from(header, offset)[4]
        for _ in range(tags):
            name, items, offset = _read_tag(header, offset, base)
            if name in names and items:
                found[name] = items
    except (struct.error, ValueError):
        pass  # the header ends early, or is damaged from here on
    return found


def _read_tag(header: bytes, offset: int, base: int | None) -> tuple[str, tuple[str, ...], int]:
    """One tag: its name, its values, and where the next one begins.

    `base` is None in the second version; in the first, what an item's length has been increased by.
    """
    name, counted, _, _, items, sentinel = _TAG.unpack_from(header, offset)
    if sentinel not in _SENTINELS or not 0 <= items <= _MAX_ITEMS:
        raise ValueError("no tag begins here")
    offset += _TAG.size
    texts: list[str] = []
    for _ in range(items):
        lengths = _ITEM.unpack_from(header, offset)
        offset += _ITEM.size
        length = lengths[1] if base is None else lengths[0] - base
        if base is not None and length < 0:
            continue
        if length < 0 or offset + length > len(header):
            raise ValueError("an item ends behind the header")
        texts.append(_text(header[offset : offset + length]))
        offset += -(-length // 4) * 4
    return _text(name), tuple(text for text in texts[: counted or items] if text), offset


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("latin-1").strip()
