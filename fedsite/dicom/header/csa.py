"""Siemens' CSA header: a table of named values inside one private attribute, (0029,xx10) of "SIEMENS CSA HEADER".

The format was never published; this follows the description of the NiBabel project
(https://nipy.org/nibabel/dicom/siemens_csa.html). Both versions are read, the older one without the mark "SV10".
"""

import struct
from collections.abc import Collection

_MARK = b"SV10"
_SENTINELS = (77, 205)
_START = struct.Struct("<2i")  # number of tags, sentinel
_TAG = struct.Struct("<64si4s3i")  # name, how many values count, representation, type, items, sentinel
_ITEM = struct.Struct("<4i")

# More than any scanner writes: a damaged header must not keep a reader busy.
_MAX_TAGS, _MAX_ITEMS = 1024, 1024


def values(header: bytes, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The values of some tags, as text, without empty ones. What cannot be read is left out; nothing is raised.

    The hundred tags of a header are not walked: a tag is looked for by its name, as a scan reads this in every image.
    """
    is_second = header[:4] == _MARK
    start = 8 if is_second else 0
    if len(header) < start + _START.size + _TAG.size:
        return {}
    tags, sentinel = _START.unpack_from(header, start)
    if sentinel not in _SENTINELS or not 0 < tags <= _MAX_TAGS:
        return {}
    start += _START.size
    # In the first version an item's length has been increased by the number of the first tag's items.
    increase = None if is_second else _TAG.unpack_from(header, start)[4]
    found = ((name, _values_of(header, start, name, increase)) for name in names)
    return {name: items for name, items in found if items}


def _values_of(header: bytes, start: int, name: str, increase: int | None) -> tuple[str, ...]:
    """The values of the tag of this name, the first place where one begins; () where there is none."""
    wanted = name.encode() + b"\0"
    offset = header.find(wanted, start)
    while 0 <= offset <= len(header) - _TAG.size:
        _, counted, _, _, items, sentinel = _TAG.unpack_from(header, offset)
        if sentinel in _SENTINELS and 0 <= counted <= _MAX_ITEMS and 0 <= items <= _MAX_ITEMS:
            texts = _items(header, offset + _TAG.size, items, increase)
            return tuple(text for text in texts[: counted or items] if text)
        offset = header.find(wanted, offset + 1)
    return ()


def _items(header: bytes, offset: int, count: int, increase: int | None) -> list[str]:
    """Up to `count` items, as far as they lie within the header."""
    texts: list[str] = []
    for _ in range(count):
        if offset + _ITEM.size > len(header):
            break
        first, second, _, _ = _ITEM.unpack_from(header, offset)
        length = second if increase is None else first - increase
        offset += _ITEM.size
        if length < 0 or offset + length > len(header):
            break
        texts.append(header[offset : offset + length].split(b"\0", 1)[0].decode("latin-1").strip())
        offset += -(-length // 4) * 4
    return texts
