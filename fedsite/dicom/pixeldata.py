"""Where and how the voxels lie in a file: located and measured while the header is read, without decoding.

Encodings after PS3.5: native pixel data have a length (section 8), encapsulated ones are a sequence of items that
a delimiter closes (section A.4).
"""

import os
import struct
from dataclasses import replace
from typing import BinaryIO

from pydicom import uid
from pydicom.dataset import FileDataset

from fedsite.dicom.model import PixelLayout
from fedsite.dicom.values import Header, text, whole

PREAMBLE_BYTES = 132
PIXEL_DATA = (0x7FE0, 0x0010)
UNDEFINED_LENGTH = 0xFFFFFFFF

NATIVE = frozenset({uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian})
DEFLATED = frozenset({uid.DeflatedExplicitVRLittleEndian})

# The codec that decodes each compressed syntax: one, so that a result never depends on what else is installed.
# All have permissive licences; GDCM is asked only for what the small, actively kept codecs lack.
CODECS = {
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}

# Syntaxes that always lose something; JPEG 2000 and HTJ2K may or may not, (0028,2110) says so.
LOSSY = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless})

_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


# More fragments than any encoder writes; beyond that the walk ends, so that no file can make it endless.
_MAX_FRAGMENTS = 1 << 20


def transfer_syntax(dataset: FileDataset) -> str:
    """The transfer syntax that a file states or, without file meta information, that pydicom found by trying."""
    stated = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if stated:
        return stated
    implicit, little = dataset.original_encoding
    if implicit:
        return str(uid.ImplicitVRLittleEndian)
    return str(uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian)


def layout(file: BinaryIO, dataset: FileDataset, header: Header) -> PixelLayout:
    """The layout of the pixel data that `file` stands before, with the rule that they break if they do."""
    stored = whole(header, "BitsStored") or whole(header, "BitsAllocated") or 0
    high = whole(header, "HighBit")
    described = PixelLayout(
        rows=whole(header, "Rows") or 0,
        columns=whole(header, "Columns") or 0,
        samples=whole(header, "SamplesPerPixel") or 1,
        photometric=text(header, "PhotometricInterpretation").upper(),
        bits_allocated=whole(header, "BitsAllocated") or 0,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else high,
        signed=whole(header, "PixelRepresentation") == 1,
        frames=max(whole(header, "NumberOfFrames") or 1, 1),
    )
    syntax = transfer_syntax(dataset)
    if syntax in DEFLATED:
        return described
    offset, length = _element(file, *dataset.original_encoding)
    if syntax in NATIVE:
        fault = _native_fault(described, offset, length, os.fstat(file.fileno()).st_size)
    else:
        fault = _encapsulated_fault(file, length, described.frames)
    return replace(described, offset=offset, fault=fault)


def _element(file: BinaryIO, implicit: bool | None, little: bool | None) -> tuple[int, int]:
    """Where the value of PixelData begins and how long it is; length 0 where the file ends before it."""
    order = "<" if little else ">"
    start = file.read(8)
    if len(start) < 8 or struct.unpack_from(f"{order}HH", start) != PIXEL_DATA:
        return 0, 0
    if implicit:
        return file.tell(), struct.unpack_from(f"{order}L", start, 4)[0]
    # Explicit: OB and OW have two reserved bytes, then a length of four (PS3.5 section 7.1.2).
    rest = file.read(4)
    return file.tell(), struct.unpack(f"{order}L", rest)[0] if len(rest) == 4 else 0


def _native_fault(described: PixelLayout, offset: int, length: int, size: int) -> str:
    if length == 0:
        return "no-pixel-data"
    expected = described.frame_bytes * described.frames
    if length != UNDEFINED_LENGTH and offset + length > size:
        return "truncated-pixels"
    # A value has an even length: one byte of padding is no fault (PS3.5 section 8.1.1).
    return "" if expected and length - expected in (0, expected % 2) else "wrong-length"


def _encapsulated_fault(file: BinaryIO, length: int, frames: int) -> str:
    """Walks the items: the basic offset table, one or more fragments a frame, the delimiter."""
    if length != UNDEFINED_LENGTH:
        return "wrong-length" if length else "no-pixel-data"
    size = os.fstat(file.fileno()).st_size
    for fragments in range(-1, _MAX_FRAGMENTS):
        head = file.read(8)
        if len(head) < 8:
            return "truncated-pixels"
        group, element, item_length = struct.unpack("<HHL", head)
        if (group, element) == _DELIMITER:
            return "" if fragments >= frames else "wrong-length"
        if (group, element) != _ITEM or file.seek(item_length, os.SEEK_CUR) > size:
            return "truncated-pixels"
    return "wrong-length"
