"""Where and how the voxels lie in a file: located and measured while the header is read, without decoding.

Encodings after PS3.5: native pixel data have a length (section 8), encapsulated ones are a sequence of items that
a delimiter closes (section A.4).
"""

import os
import struct
from dataclasses import replace
from typing import BinaryIO

from pydicom import uid

from fedsite.dicom.header.elements import MAX_TRAILING, UNDEFINED_LENGTH, Parsed
from fedsite.dicom.header.values import Header, text, whole
from fedsite.dicom.model import PixelLayout

NATIVE = frozenset({uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian})
DEFLATED = frozenset({uid.DeflatedExplicitVRLittleEndian})

# Syntaxes that always lose something; JPEG 2000 and HTJ2K may or may not, (0028,2110) says so.
LOSSY = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless})

_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


# More fragments than any encoder writes; beyond that the walk ends, so that no file can make it endless.
_MAX_FRAGMENTS = 1 << 20
# A few bytes that claim a very large image: no head compresses so well, but for slices of nothing but air.
_MAX_RATIO, _RATIO_COUNTS_FROM = 100, 1 << 24


def layout(file: BinaryIO, parsed: Parsed, header: Header) -> PixelLayout:
    """The layout of the pixel data, with the rule that they break if they do."""
    allocated = whole(header, "BitsAllocated") or 0
    # Of values whose sign nobody knows no bit can be told.
    stored = _bits(header, "BitsStored", allocated) if whole(header, "PixelRepresentation") in (0, 1) else 0
    offset, length = parsed.pixels
    described = PixelLayout(
        rows=whole(header, "Rows") or 0,
        columns=whole(header, "Columns") or 0,
        samples=whole(header, "SamplesPerPixel") or 1,
        photometric=text(header, "PhotometricInterpretation").upper(),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=_bits(header, "HighBit", stored - 1),
        signed=whole(header, "PixelRepresentation") == 1,
        frames=max(whole(header, "NumberOfFrames") or 1, 1),
        padding=_padding(header, allocated),
        offset=None if parsed.syntax in DEFLATED else offset,
    )
    if parsed.syntax in DEFLATED:
        trailing = parsed.size - offset - length >= MAX_TRAILING
        bomb = trailing or _is_beyond(described, file.seek(0, os.SEEK_END))
        fault = _native_fault(described, offset, length, parsed.size) or ("wrong-length" if bomb else "")
    elif parsed.syntax in NATIVE:
        fault = _native_fault(described, offset, length, parsed.size)
    else:
        file.seek(offset)
        fault = _encapsulated_fault(file, length, described, parsed.size)
    return replace(described, fault=fault) if fault else described


def _bits(header: Header, keyword: str, default: int) -> int:
    """A number of bits: the default where it is absent, 0 where it is there and cannot be read."""
    return (whole(header, keyword) or 0) if keyword in header else default


def _padding(header: Header, allocated: int) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit, in the sign of the pixels: some write 63536 for -2000."""
    named = (whole(header, "PixelPaddingValue"), whole(header, "PixelPaddingRangeLimit"))
    if named[0] is None:
        return None
    past = 1 << allocated
    wraps = whole(header, "PixelRepresentation") == 1
    ends = [end - past if wraps and end >= past // 2 else end for end in named if end is not None]
    return min(ends), max(ends)


def _native_fault(described: PixelLayout, offset: int, length: int, size: int) -> str:
    if length == 0:
        return "no-pixel-data"
    expected = described.frame_bytes * described.frames
    if length != UNDEFINED_LENGTH and offset + length > size:
        return "truncated-pixels"
    # A value has an even length: one byte of padding is no fault (PS3.5 section 8.1.1).
    return "" if expected and length - expected in (0, expected % 2) else "wrong-length"


def _is_beyond(described: PixelLayout, stored: int) -> bool:
    """Whether so few compressed bytes cannot be so many voxels."""
    claimed = described.frame_bytes * described.frames
    return claimed > _RATIO_COUNTS_FROM and claimed > _MAX_RATIO * stored


def _encapsulated_fault(file: BinaryIO, length: int, described: PixelLayout, size: int) -> str:
    """Walks the items: the basic offset table, one or more fragments a frame, the delimiter."""
    if length != UNDEFINED_LENGTH:
        return "wrong-length" if length else "no-pixel-data"
    start = file.tell()
    for fragments in range(-1, _MAX_FRAGMENTS):
        head = file.read(8)
        if len(head) < 8:
            return "truncated-pixels"
        group, element, item_length = struct.unpack("<HHL", head)
        if (group, element) == _DELIMITER:
            short = fragments < described.frames or _is_beyond(described, file.tell() - start)
            return "wrong-length" if short else ""
        if (group, element) != _ITEM or file.seek(item_length, os.SEEK_CUR) > size:
            return "truncated-pixels"
    return "wrong-length"
