"""Reading the data elements that are wanted, and nothing else, up to the pixel data (PS3.5 section 7).

What an ordinary header needs is walked here, many times faster than by a general reader: explicit and implicit VR,
both byte orders, sequences stepped over by their length or to their delimiter, deflated data sets. The values stay raw
bytes in a pydicom Dataset, which converts them when they are asked for. Whatever is out of the ordinary (no file meta
information, elements out of order, a VR that is none, a value behind the end) goes to pydicom itself, so that no
result depends on who read it.
"""

import struct
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, cast

import pydicom
from pydicom import uid
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

PREAMBLE_BYTES = 132
UNDEFINED_LENGTH = 0xFFFFFFFF

_MEDIA_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_META = (_MEDIA_CLASS, _TRANSFER_SYNTAX)
_META_GROUP = 0x0002
# Commands are sent, never stored (PS3.7 section 6.3.1): what looks like one is the zeros of a file half written, which
# pydicom would take for millions of elements.
_COMMAND_GROUP = 0x0000
_ZEROS = "zeros where elements should be"
# A header ends where the pixels begin: FloatPixelData, DoubleFloatPixelData (0009) or PixelData.
_FLOAT_PIXELS, _PIXELS = 0x7FE00008, 0x7FE00010
# How pixels are stored (PS3.5 section 8): under another representation nobody knows in which order their bytes are.
_OF_PIXELS = frozenset({"OB", "OW", "UN", None})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

_IMPLICIT, _BIG_ENDIAN = str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRBigEndian)
_DEFLATED = str(uid.DeflatedExplicitVRLittleEndian)
_STANDARD_SYNTAXES = f"{_IMPLICIT}."

# The first block holds the whole header of most files. One longer than the last is not ordinary.
_BLOCK, _LONGEST = 1 << 14, 1 << 26
_DEEPEST = 32
# How much of a value is kept of elements that nobody wants.
_BEGINNING = 64
PRIVATE = 0x00010000  # the bit that makes a group's number odd

# An element: tag, VR (None where it is implicit), place and length of its value.
Span = tuple[int, str | None, int, int]
# How much of an unusual header goes to pydicom, which takes microseconds for every element.
_LONGEST_UNUSUAL = 1 << 24
# How much may follow the pixel data in a deflated data set; a file must not make a site inflate without end.
MAX_TRAILING = 1 << 26

# Value representations with a length of two bytes, and those with two reserved bytes and a length of four (7.1.2).
_SHORT = {name.encode(): name for name in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()}
_LONG = {name.encode(): name for name in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}


class _Odd(Exception):
    """The header is none of those that are walked here."""


class _Encoding:
    """How elements begin: with or without their VR, in one byte order or the other."""

    def __init__(self, implicit: bool, little: bool) -> None:
        order = "<" if little else ">"
        self.implicit, self.little = implicit, little
        self._plain = struct.Struct(f"{order}HHL").unpack_from
        self._explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self._length = struct.Struct(f"{order}L").unpack_from
        # What begins at a place of the data. Raises _Odd, struct.error.
        self.head: Callable[[bytes, int], Span] = self._implicit_head if implicit else self._explicit_head

    def _implicit_head(self, data: bytes, position: int) -> Span:
        group, element, length = self._plain(data, position)
        return group << 16 | element, None, position + 8, length

    def _explicit_head(self, data: bytes, position: int) -> Span:
        group, element, coded, length = self._explicit(data, position)
        if representation := _SHORT.get(coded):
            return group << 16 | element, representation, position + 8, length
        if representation := _LONG.get(coded):
            return group << 16 | element, representation, position + 12, self._length(data, position + 8)[0]
        raise _Odd

    def delimiter(self, data: bytes, position: int) -> tuple[int, int]:
        """Tag and length of what has no VR in any encoding: the begin and end of an item (PS3.5 section 7.5)."""
        group, element, length = self._plain(data, position)
        return group << 16 | element, length


_EXPLICIT_LITTLE, _IMPLICIT_LITTLE = _Encoding(False, True), _Encoding(True, True)
_EXPLICIT_BIG = _Encoding(False, False)


@dataclass(frozen=True, eq=False)
class Parsed:
    """The wanted elements of one header, and what it takes to read on.

    Attributes:
        dataset: the elements, not converted yet.
        media_class: the SOP class in the file meta information, "" when it has none.
        syntax: the transfer syntax that the file states or, without file meta information, that was found by trying.
        implicit, little: how the data set is encoded.
        tags: of all elements before the pixel data, wanted or not; not of those within sequences.
        noted: how the values of the elements begin that were to be noted, by tag; at least 64 bytes of longer ones.
        pixels: where the value of PixelData begins in bytes, and its length; (0, 0) where there is none, or of a
            representation that pixels do not have.
        size: of the file, or of the inflated data set (no further than MAX_TRAILING behind its pixels); `pixels` lies
            in the same.
    """

    dataset: Dataset = field(repr=False)
    media_class: str
    syntax: str
    implicit: bool
    little: bool
    tags: Collection[int]
    noted: Mapping[int, bytes] = field(repr=False)
    pixels: tuple[int, int]
    size: int


def read(file: BinaryIO, size: int, wanted: Mapping[int, BaseTag], noted: Collection[int] = ()) -> Parsed:
    """The wanted elements of a DICOM file of `size` bytes that stands at its beginning; of the noted ones a glance.

    Raises whatever pydicom raises on a damaged header. Must run inside `values.tolerant_reading`.
    """
    buffer = _Buffer(file.read)
    try:
        return _walk(buffer, file, size, wanted, noted)
    except (_Odd, struct.error):
        if _DEFLATED.encode() in buffer.data[:_BLOCK]:
            raise ValueError("an unusual header that is deflated") from None  # pydicom would inflate without bound
        file.seek(0)
        return read_with_pydicom(BytesIO(file.read(_LONGEST_UNUSUAL)), size, wanted, noted)


def read_with_pydicom(file: BinaryIO, size: int, wanted: Mapping[int, BaseTag], noted: Collection[int] = ()) -> Parsed:
    """The same, by pydicom alone."""
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    raw = dict(dataset.items())
    if any(tag.group == _COMMAND_GROUP for tag in raw):
        raise ValueError(_ZEROS)
    stated = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    implicit, little = map(bool, dataset.original_encoding)
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    return Parsed(
        dataset=Dataset({tag: element for tag, element in raw.items() if tag in wanted}),
        media_class=str(dataset.file_meta.get("MediaStorageSOPClassUID", "")),
        syntax=stated or str(uid.ImplicitVRLittleEndian if implicit else explicit),
        implicit=implicit,
        little=little,
        tags=[int(tag) for tag in raw],
        noted={int(tag): _beginning(element) for tag, element in raw.items() if int(tag) in noted},
        pixels=_pixels(file, implicit, little),
        size=size,
    )


def _beginning(element: DataElement | RawDataElement) -> bytes:
    if isinstance(element, RawDataElement):
        return (element.value or b"")[:_BEGINNING]
    return b"SQ" if element.value else b""  # pydicom has read the items of a sequence of undefined length


def _pixels(file: BinaryIO, implicit: bool, little: bool) -> tuple[int, int]:
    """Place and length of the value of the element before which the file stands, if that is PixelData."""
    place = file.tell()
    start = file.read(12)
    try:
        tag, representation, value, length = _encoding(implicit, little).head(start, 0)
    except (_Odd, struct.error):
        return 0, 0
    return (place + value, length) if _holds_pixels(tag, representation) else (0, 0)


def _holds_pixels(tag: int, representation: str | None) -> bool:
    return tag == _PIXELS and representation in _OF_PIXELS


class _Buffer:
    """The beginning of a file or an inflated data set, which grows as it is walked."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self.data = source(_BLOCK)

    def reach(self, stop: int) -> bytes:
        """The data up to `stop` at least; less only where the source ends before."""
        while len(self.data) < stop:
            if stop > _LONGEST:
                raise _Odd
            more = self._source(max(len(self.data), stop - len(self.data)))
            if not more:
                break
            self.data += more
        return self.data


class _Inflated:
    """A deflated data set (PS3.5 section A.5), inflated as it is read. Damage looks like an early end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        try:
            while not self._inflate.eof:
                chunk = self._inflate.unconsumed_tail or self._file.read(_BLOCK)
                inflated = self._inflate.decompress(chunk, count)
                if inflated or not chunk:
                    return inflated
        except zlib.error:
            pass
        return b""

    def skip(self, count: int) -> int:
        """Reads on; gives how many of the `count` bytes there were."""
        left = count
        while left and (skipped := len(self.read(min(left, 1 << 20)))):
            left -= skipped
        return count - left


def _walk(buffer: _Buffer, file: BinaryIO, size: int, wanted: Mapping[int, BaseTag], noted: Collection[int]) -> Parsed:
    meta, start = _meta(buffer)
    syntax = meta[_TRANSFER_SYNTAX]
    if buffer.reach(start + 2)[start : start + 2] == b"\0\0":
        raise ValueError(_ZEROS)
    if syntax != _IMPLICIT and not syntax.startswith(_STANDARD_SYNTAXES):
        raise _Odd  # absent, or of a vendor
    inflated = None
    if syntax == _DEFLATED:
        file.seek(start)
        inflated = _Inflated(file)
        buffer, start = _Buffer(inflated.read), 0
    encoding = _encoding(syntax == _IMPLICIT, syntax != _BIG_ENDIAN)
    first = buffer.reach(start + 6)[start + 4 : start + 6]
    if encoding.implicit and first.isalpha() and first.isupper():
        raise _Odd  # explicit, whatever the syntax says
    spans, pixels = _spans(buffer, start, encoding, wanted)
    data, order = buffer.data, (encoding.implicit, encoding.little)
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    glances: dict[int, bytes] = {}
    for tag, representation, start, length in spans:
        if tag in wanted:
            value = data[start : start + length] if length else _empty(representation)
            elements[wanted[tag]] = RawDataElement(wanted[tag], representation, length, value, start, *order)
        if tag in noted:
            glances[tag] = data[start : start + (length if length < _BEGINNING else _BEGINNING)]
    if inflated:
        known = len(buffer.data)
        size = known + inflated.skip(max(sum(pixels) - known, 0) + MAX_TRAILING)
    tags = [span[0] for span in spans]
    return Parsed(Dataset(elements), meta[_MEDIA_CLASS], syntax, *order, tags, glances, pixels, size)


def _meta(buffer: _Buffer) -> tuple[dict[int, str], int]:
    """What the file meta information (PS3.10 section 7.1) says of syntax and class, and where the data set begins."""
    data, position = buffer.data, PREAMBLE_BYTES
    if data[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] != b"DICM":
        raise _Odd
    meta = dict.fromkeys(_META, "")
    while _EXPLICIT_LITTLE.delimiter(data, position)[0] >> 16 == _META_GROUP:
        tag, representation, start, length = _EXPLICIT_LITTLE.head(data, position)
        if tag in meta:
            if representation != "UI":
                raise _Odd
            meta[tag] = data[start : start + length].decode("latin-1").rstrip("\0 ")
        position = start + length
    return meta, position


def _spans(
    buffer: _Buffer, position: int, encoding: _Encoding, wanted: Mapping[int, BaseTag]
) -> tuple[list[Span], tuple[int, int]]:
    """Where the values of the data set at `position` lie, and place and length of the pixels. All are in the buffer."""
    spans: list[Span] = []
    head, data, previous = encoding.head, buffer.data, 0x0007FFFF  # what lies before group 0008 is of no data set
    while True:
        if position + 12 > len(data):
            data = buffer.reach(position + 12)
            if position == len(data):
                return spans, (0, 0)
        span = tag, representation, start, length = head(data, position)
        if not previous < tag < _FLOAT_PIXELS:
            return spans, _at_pixels(previous, span)
        previous = tag
        if length == UNDEFINED_LENGTH:
            if tag in wanted and (representation not in ("SQ", None) or tag & PRIVATE):
                raise _Odd
            length = _sequence_end(buffer, start, encoding, representation, 0) - start
            spans.append((tag, representation, start, length))
            position = start + length + 8
        else:
            spans.append(span)
            position = start + length


def _empty(representation: str | None) -> bytes | None:
    """How pydicom keeps a value of no bytes."""
    return cast("bytes | None", empty_value_for_VR(representation, raw=True))


def _at_pixels(previous: int, span: Span) -> tuple[int, int]:
    tag, representation, start, length = span
    if tag >> 16 == _COMMAND_GROUP:
        raise ValueError(_ZEROS)
    if tag <= previous or tag > _PIXELS:
        raise _Odd  # out of order: what was looked for may still come
    return (start, length) if _holds_pixels(tag, representation) else (0, 0)


def _sequence_end(buffer: _Buffer, position: int, encoding: _Encoding, representation: str | None, depth: int) -> int:
    """Where the delimiter of a sequence of undefined length stands whose first item begins at `position`."""
    if representation == "UN":  # then implicit, whatever the rest is (PS3.5 section 6.2.2)
        encoding = _IMPLICIT_LITTLE
    if depth > _DEEPEST:
        raise _Odd
    while True:
        tag, length = encoding.delimiter(buffer.reach(position + 8), position)
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise _Odd
        position += 8
        position = position + length if length != UNDEFINED_LENGTH else _item_end(buffer, position, encoding, depth)


def _item_end(buffer: _Buffer, position: int, encoding: _Encoding, depth: int) -> int:
    """What follows the delimiter of an item of undefined length whose first element begins at `position`."""
    while True:
        data = buffer.reach(position + 12)
        if encoding.delimiter(data, position)[0] == _ITEM_END:
            return position + 8
        _, representation, start, length = encoding.head(data, position)
        if length == UNDEFINED_LENGTH:
            position = _sequence_end(buffer, start, encoding, representation, depth + 1) + 8
        else:
            position = start + length


def _encoding(implicit: bool, little: bool) -> _Encoding:
    if implicit:
        return _IMPLICIT_LITTLE
    return _EXPLICIT_LITTLE if little else _EXPLICIT_BIG
