"""JPEG streams for tests, which pydicom cannot write: lossless (ITU-T T.81 annex H) and 8 bit baseline."""

import struct
from io import BytesIO

import numpy as np
from PIL import Image

# A Huffman code for the 17 sizes of a difference, the likeliest first, of lengths that leave codes over (T.81 C.2).
_SIZES = (4, 3, 5, 6, 2, 1, 0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
_LENGTHS = (2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)


def lossless(plane: np.ndarray, precision: int = 16, selection: int = 1) -> bytes:
    """JPEG lossless (process 14) of stored values [row, column], unsigned and below 2**precision.

    `selection` is the predictor: 1 the left neighbour, 2 the one above.
    """
    rows, columns = plane.shape
    values = plane.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:], predicted[1:, 0] = values[:, :-1], values[:-1, 0]
    predicted[0, 0] = 1 << (precision - 1)
    if selection == 2:
        predicted[1:] = values[:-1]
    differences = (values - predicted + 0x8000).ravel() % 0x10000 - 0x8000
    frame = struct.pack(">BHHB3B", precision, rows, columns, 1, 1, 0x11, 0)
    huffman = bytes((0, *(_LENGTHS.count(length) for length in range(1, 17)), *_SIZES))
    scan = bytes((1, 1, 0, selection, 0, 0))
    segments = b"".join(_segment(*each) for each in ((0xC3, frame), (0xC4, huffman), (0xDA, scan)))
    return b"\xff\xd8" + segments + _entropy_coded(differences) + b"\xff\xd9"


def baseline(plane: np.ndarray) -> bytes:
    """JPEG baseline of stored values [row, column], uint8."""
    stream = BytesIO()
    Image.fromarray(plane).save(stream, "jpeg", quality=95)
    return stream.getvalue()


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _entropy_coded(differences: np.ndarray) -> bytes:
    """Each difference as the code of its size and as many further bits (T.81 H.1.2.2)."""
    sizes = np.ceil(np.log2(np.abs(differences) + 1)).astype(np.int64)
    codes, lengths = np.zeros(17, np.int64), np.zeros(17, np.int64)
    code = 0
    for place, (size, length) in enumerate(zip(_SIZES, _LENGTHS, strict=True)):
        code <<= length - (_LENGTHS[place - 1] if place else 0)
        codes[size], lengths[size] = code, length
        code += 1
    further = np.where(differences < 0, differences - 1, differences) & ((1 << sizes) - 1)
    further, extra = np.where(sizes == 16, 0, further), np.where(sizes == 16, 0, sizes)
    words, widths = codes[sizes] << extra | further, lengths[sizes] + extra
    ends = np.cumsum(widths)
    bits = np.repeat(words, widths) >> (np.repeat(ends, widths) - 1 - np.arange(ends[-1])) & 1
    padding = np.ones(-len(bits) % 8, np.int64)
    return np.packbits(np.concatenate([bits, padding]).astype(np.uint8)).tobytes().replace(b"\xff", b"\xff\x00")
