"""A DICOM file as a tree of elements, parsed and written without pydicom, so that anything wrong can be written.

PS3.5 section 7: explicit and implicit representation, both byte orders, deflated; sequences, items and fragments
with defined and undefined lengths. What does not parse raises ValueError.
"""

import struct
import zlib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache

from pydicom.datadict import dictionary_VR

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
TRANSFER_SYNTAX = 0x00020010
LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
TEXTS = frozenset({b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM", b"UT"})
MAX_DEPTH = 12

IMPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


@dataclass
class Element:
    """One element. `value` is bytes, a list of items, or the fragments of encapsulated pixel data.

    `length` is what the file will claim (None: the truth); `undefined` gives a sequence no length but a delimiter.
    """

    tag: int
    vr: bytes
    value: "bytes | list[Item] | Fragments"
    undefined: bool = False
    length: int | None = None

    @property
    def content(self) -> bytes:
        """The value where it is plain bytes, else nothing."""
        return self.value if isinstance(self.value, bytes) else b""


@dataclass
class Item:
    """One item of a sequence."""

    elements: list[Element]
    undefined: bool = False


@dataclass
class Fragments:
    """Encapsulated pixel data: the first fragment is the basic offset table."""

    parts: list[bytes]
    delimited: bool = True


@dataclass
class Encoding:
    """How a data set is written."""

    implicit: bool = False
    order: str = "<"
    deflated: bool = False

    @classmethod
    def of(cls, syntax: str) -> "Encoding":
        """The encoding that a transfer syntax stands for."""
        return cls(syntax == IMPLICIT, ">" if syntax == BIG else "<", syntax == DEFLATED)


_META = Encoding()


@dataclass
class File:
    """A whole file: preamble, file meta information, data set."""

    preamble: bytes
    meta: list[Element]
    dataset: list[Element]
    encoding: Encoding = field(default_factory=Encoding)

    def copy(self) -> "File":
        """A deep copy."""
        return deepcopy(self)

    def find(self, *tags: int) -> list[Element]:
        """All elements with these tags, at any depth, in the order of the file."""
        return [element for _, element in walk(self.dataset) if element.tag in tags]

    def first(self, tag: int) -> Element | None:
        """The element of the data set itself with this tag."""
        return next((element for element in self.dataset if element.tag == tag), None)

    def set(self, tag: int, vr: bytes, value: bytes) -> None:
        """Gives an element of the data set itself this value, at its place in the order of tags."""
        self.dataset = [element for element in self.dataset if element.tag != tag]
        place = next((index for index, element in enumerate(self.dataset) if element.tag > tag), len(self.dataset))
        self.dataset.insert(place, Element(tag, vr, even(value, vr)))


def even(value: bytes, vr: bytes = b"UN") -> bytes:
    """A value padded to an even length, as the standard wants it."""
    return value + (b" " if vr in TEXTS else b"\0") * (len(value) % 2)


def walk(elements: list[Element], depth: int = 0) -> Iterator[tuple[list[Element], Element]]:
    """Every element at any depth, with the list that holds it."""
    for element in list(elements):
        yield elements, element
        if isinstance(element.value, list) and depth < MAX_DEPTH:
            for item in element.value:
                yield from walk(item.elements, depth + 1)


def parse(content: bytes) -> File:
    """The tree of a file with the magic of PS3.10. Raises ValueError when it is none or does not parse."""
    if content[128:132] != b"DICM":
        raise ValueError("no DICOM file")
    try:
        meta, place = _elements(content, 132, len(content), _META, meta=True)
        stated = next((element.content for element in meta if element.tag == TRANSFER_SYNTAX), b"")
        encoding = Encoding.of(stated.rstrip(b"\0 ").decode("latin-1"))
        body = content[place:]
        if encoding.deflated:
            body = zlib.decompress(body, -zlib.MAX_WBITS)
        dataset, _ = _elements(body, 0, len(body), encoding)
    except (struct.error, zlib.error, RecursionError) as error:
        raise ValueError("does not parse") from error
    return File(content[:128], meta, dataset, encoding)


def serialise(file: File) -> bytes:
    """The bytes of a file, with the lengths it claims where it lies. The group length is that of the group."""
    group = b"".join(_write(element, _META) for element in file.meta if element.tag != 0x00020000)
    first = file.meta[:1] if file.meta and file.meta[0].tag == 0x00020000 else []
    for element in first:
        group = _write(Element(element.tag, element.vr, struct.pack("<L", len(group))), _META) + group
    body = b"".join(_write(element, file.encoding) for element in file.dataset)
    if file.encoding.deflated:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    return file.preamble + b"DICM" + group + body


def _elements(
    content: bytes, place: int, end: int, encoding: Encoding, depth: int = 0, meta: bool = False
) -> tuple[list[Element], int]:
    """The elements from `place` to `end`, an item's delimiter, or where the meta information ends."""
    found: list[Element] = []
    while place < end:
        group, number = struct.unpack_from(f"{encoding.order}HH", content, place)
        if meta and group != 2:
            break
        tag = group << 16 | number
        if tag == ITEM_END:
            return found, place + 8
        element, place = _element(content, place, end, encoding, tag, depth)
        found.append(element)
    return found, place


def _element(content: bytes, place: int, end: int, encoding: Encoding, tag: int, depth: int) -> tuple[Element, int]:
    vr, length, place = _head(content, place, encoding, tag)
    if length == UNDEFINED and tag == PIXEL_DATA:
        fragments, place = _fragments(content, place, encoding)
        return Element(tag, vr, fragments, undefined=True), place
    is_sequence = vr == b"SQ" or length == UNDEFINED
    if is_sequence and depth < MAX_DEPTH:
        stop = end if length == UNDEFINED else place + length
        # An element of unknown representation and undefined length is written implicitly (PS3.5 section 6.2.2).
        inner = Encoding(True, "<") if vr == b"UN" else encoding
        items, place = _items(content, place, stop, inner, depth)
        return Element(tag, vr, items, undefined=length == UNDEFINED), place
    if length == UNDEFINED or place + length > end:
        raise ValueError("an element goes on behind its end")
    return Element(tag, vr, content[place : place + length]), place + length


def _head(content: bytes, place: int, encoding: Encoding, tag: int) -> tuple[bytes, int, int]:
    if encoding.implicit:
        (length,) = struct.unpack_from(f"{encoding.order}L", content, place + 4)
        return _described(tag), length, place + 8
    vr = content[place + 4 : place + 6]
    if vr in LONG:
        (length,) = struct.unpack_from(f"{encoding.order}L", content, place + 8)
        return vr, length, place + 12
    (length,) = struct.unpack_from(f"{encoding.order}H", content, place + 6)
    return vr, length, place + 8


def _items(content: bytes, place: int, end: int, encoding: Encoding, depth: int) -> tuple[list[Item], int]:
    items: list[Item] = []
    while place < end:
        group, number, length = struct.unpack_from(f"{encoding.order}HHL", content, place)
        tag = group << 16 | number
        place += 8
        if tag == SEQUENCE_END:
            return items, place
        if tag != ITEM:
            raise ValueError("no item")
        stop = end if length == UNDEFINED else place + length
        elements, place = _elements(content, place, stop, encoding, depth + 1)
        items.append(Item(elements, length == UNDEFINED))
    return items, place


def _fragments(content: bytes, place: int, encoding: Encoding) -> tuple[Fragments, int]:
    parts: list[bytes] = []
    while True:
        group, number, length = struct.unpack_from(f"{encoding.order}HHL", content, place)
        place += 8
        if (group << 16 | number) != ITEM:
            return Fragments(parts), place
        parts.append(content[place : place + length])
        place += length


def _write(element: Element, encoding: Encoding) -> bytes:
    order = encoding.order
    if isinstance(element.value, Fragments):
        value = _write_fragments(element.value, order)
    elif isinstance(element.value, list):
        inner = Encoding(True, "<") if element.vr == b"UN" else encoding
        value = b"".join(_write_item(item, inner) for item in element.value)
        if element.undefined:
            value += _head_of(SEQUENCE_END, 0, inner.order)
    else:
        value = element.value
    length = UNDEFINED if element.undefined else len(value)
    length = length if element.length is None else element.length
    tag = struct.pack(f"{order}HH", element.tag >> 16, element.tag & 0xFFFF)
    if encoding.implicit:
        return tag + struct.pack(f"{order}L", length & UNDEFINED) + value
    vr = (element.vr + b"  ")[:2]
    if vr in LONG:
        return tag + vr + b"\0\0" + struct.pack(f"{order}L", length & UNDEFINED) + value
    return tag + vr + struct.pack(f"{order}H", length & 0xFFFF) + value


def _write_item(item: Item, encoding: Encoding) -> bytes:
    body = b"".join(_write(element, encoding) for element in item.elements)
    if item.undefined:
        return _head_of(ITEM, UNDEFINED, encoding.order) + body + _head_of(ITEM_END, 0, encoding.order)
    return _head_of(ITEM, len(body), encoding.order) + body


def _write_fragments(fragments: Fragments, order: str) -> bytes:
    body = b"".join(_head_of(ITEM, len(part), order) + part for part in fragments.parts)
    return body + _head_of(SEQUENCE_END, 0, order) * fragments.delimited


def _head_of(tag: int, length: int, order: str) -> bytes:
    return struct.pack(f"{order}HHL", tag >> 16, tag & 0xFFFF, length & UNDEFINED)


@lru_cache(maxsize=4096)
def _described(tag: int) -> bytes:
    try:
        return dictionary_VR(tag)[:2].encode()
    except KeyError:
        return b"UN"
