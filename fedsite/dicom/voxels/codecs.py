"""One compressed frame to its stored values, by one codec per transfer syntax (PS3.5 section 10 and annex A.4).

The codecs are called directly: what pydicom's decoders add for colour and display is not wanted here. Before a codec
sees a frame, the size that its own header claims is held against the size that the DICOM header states, so that no
stream makes it allocate more. Codecs are C and C++ and may crash on damaged data all the same: `decoder` calls this
module in a process of its own.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise

Values = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Wanted:
    """What the DICOM header says of a frame: one sample a pixel, `bits` allocated for it."""

    syntax: str
    rows: int
    columns: int
    bits: int


@dataclass(frozen=True)
class Stored:
    """Decoded values, row by row, little-endian, in the smallest of 8, 16 or 32 bits that hold `precision` bits.

    `signed`: negative values are extended to all bits. Otherwise the lowest `precision` bits are the value, whose sign
    only the DICOM header knows.
    """

    values: Values
    precision: int
    signed: bool = False

    @property
    def container(self) -> int:
        """Bytes of one value."""
        return container(self.precision)


def container(precision: int) -> int:
    """Bytes that hold so many bits."""
    return 1 if precision <= 8 else 2 if precision <= 16 else 4


def decode(frame: bytes, wanted: Wanted) -> Stored:
    """Raises ValueError where the frame is not what the header says; whatever a codec raises on damaged data."""
    header, codec = _CODECS[wanted.syntax]
    stated = header(frame, wanted)
    values = codec(frame, wanted, stated)
    if len(values) != wanted.rows * wanted.columns * container(stated.precision):
        raise ValueError("a codec gave another number of values")
    return Stored(values, stated.precision, stated.signed)


@dataclass(frozen=True)
class _Stated:
    """How many bits a stream says that its values have."""

    precision: int
    signed: bool = False


# Start of frame: all processes of JPEG (ITU-T T.81 table B.1), and JPEG-LS (T.87 annex C).
_STARTS_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
# Markers without a length (T.81 table B.1).
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def _jpeg_header(frame: bytes, wanted: Wanted) -> _Stated:
    """The frame header of JPEG (T.81 section B.2.2) and JPEG-LS (T.87 section C.2.2): the same fields."""
    position = 2
    while True:
        (fill, marker) = frame[position : position + 2]
        if fill != 0xFF or marker == _START_OF_SCAN:
            raise ValueError("a JPEG stream without a frame header")
        if marker == 0xFF:
            position += 1
        elif marker in _ALONE:
            position += 2
        elif marker in _STARTS_OF_FRAME:
            break
        else:
            position += 2 + int(struct.unpack_from(">H", frame, position + 2)[0])
    precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
    _check(wanted, rows, columns, components)
    return _Stated(precision)


_CODESTREAM = b"\xff\x4f\xff\x51"


def _jpeg_2000_header(frame: bytes, wanted: Wanted) -> _Stated:
    """The SIZ marker segment (ITU-T T.800 section A.5.1), also within a JPEG 2000 file."""
    start = frame.index(_CODESTREAM) + len(_CODESTREAM)
    right, bottom, left, top = struct.unpack_from(">4L", frame, start + 4)
    components, depth = struct.unpack_from(">HB", frame, start + 36)
    _check(wanted, bottom - top, right - left, components)
    return _Stated((depth & 0x7F) + 1, depth > 0x7F)


def _check(wanted: Wanted, rows: int, columns: int, components: int) -> None:
    if (rows, columns, components) != (wanted.rows, wanted.columns, 1):
        raise ValueError("a frame of another size than its header says")


_RLE_HEADER = struct.Struct("<16L")
_MOST_RUN = 64  # two bytes stand for 128 at most
_BANDS = {1: "L", 2: "LA", 4: "RGBA"}


def _rle_header(frame: bytes, wanted: Wanted) -> _Stated:
    """The RLE header (PS3.5 section G.5): one segment for each byte of a value."""
    if _RLE_HEADER.unpack_from(frame)[0] != wanted.bits // 8:
        raise ValueError("another number of segments than a value has bytes")
    if _MOST_RUN * len(frame) < wanted.rows * wanted.columns * wanted.bits // 8:
        raise ValueError("fewer runs than a plane takes")
    return _Stated(wanted.bits)


def _rle(frame: bytes, wanted: Wanted, _stated: _Stated) -> Values:
    """PackBits (PS3.5 section G.3), which Pillow knows from TIFF: a whole segment as one line."""
    from PIL import Image

    count, *offsets = _RLE_HEADER.unpack_from(frame)
    bounds = [*offsets[:count], len(frame)]
    segments = (frame[start:end] for start, end in pairwise(bounds))
    planes = [Image.frombytes("L", (wanted.rows * wanted.columns, 1), each, "packbits", "L") for each in segments]
    # The most significant byte came first. Bands of one image are interleaved as the bytes of a value are.
    return Image.merge(_BANDS[count], planes[::-1]).tobytes()


def _pillow(frame: bytes, _wanted: Wanted, _stated: _Stated) -> bytes:
    from PIL import Image

    with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
        return image.tobytes()


def _gdcm(frame: bytes, wanted: Wanted, stated: _Stated) -> bytes:
    """GDCM wants the frame as the pixel data of an image."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((wanted.columns, wanted.rows, 1))
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(wanted.syntax)))
    bits, stored = 8 * container(stated.precision), stated.precision
    image.SetPixelFormat(gdcm.PixelFormat(1, bits, stored, stored - 1, 0))
    image.SetDataElement(element)
    content: str = image.GetBuffer()
    return content.encode("utf-8", "surrogateescape")  # SWIG takes bytes for text


def _charls(frame: bytes, _wanted: Wanted, _stated: _Stated) -> Values:
    import jpeg_ls

    values: Values = jpeg_ls.decode_pixel_data(frame)[0]
    return values


def _openjpeg(frame: bytes, _wanted: Wanted, _stated: _Stated) -> Values:
    import openjpeg

    values: Values = openjpeg.decode_pixel_data(frame, version=2)
    return values


_Header = Callable[[bytes, Wanted], _Stated]
_Codec = Callable[[bytes, Wanted, _Stated], Values]

# One codec for each transfer syntax (PS3.6 table A-1), so that a result never depends on what else is installed. All
# have permissive licences; GDCM is asked only for what the small, actively kept codecs lack. The UIDs stand here as
# they are: importing pydicom for its names would take longer than decoding a volume.
_CODECS: dict[str, tuple[_Header, _Codec]] = {
    "1.2.840.10008.1.2.5": (_rle_header, _rle),  # RLE Lossless
    "1.2.840.10008.1.2.4.50": (_jpeg_header, _pillow),  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": (_jpeg_header, _gdcm),  # JPEG Extended
    "1.2.840.10008.1.2.4.57": (_jpeg_header, _gdcm),  # JPEG Lossless, process 14
    "1.2.840.10008.1.2.4.70": (_jpeg_header, _gdcm),  # JPEG Lossless, process 14, selection value 1
    "1.2.840.10008.1.2.4.80": (_jpeg_header, _charls),  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": (_jpeg_header, _charls),  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90": (_jpeg_2000_header, _openjpeg),  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": (_jpeg_2000_header, _openjpeg),  # JPEG 2000
    "1.2.840.10008.1.2.4.201": (_jpeg_2000_header, _openjpeg),  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202": (_jpeg_2000_header, _openjpeg),  # the same, in the order of an RPCL progression
    "1.2.840.10008.1.2.4.203": (_jpeg_2000_header, _openjpeg),  # High-Throughput JPEG 2000
}

COMPRESSED = frozenset(_CODECS)
