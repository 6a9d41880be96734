"""Mutations of the pixel data: too short, too long, fragmented, compressed otherwise, or a bomb."""

import struct

from support.fuzz.draft import Trees, on_trees
from support.fuzz.elements import PIXEL_DATA, Element, Fragments, Item

SHIFT = 1 << 16
# Start-of-frame markers of JPEG and JPEG-LS, the SIZ marker of JPEG 2000: behind them stands the size of the image.
MARKERS = {b"\xff\xc0": 5, b"\xff\xc1": 5, b"\xff\xc3": 5, b"\xff\xf7": 5, b"\xff\x51": 6}


def _pixels(trees: Trees) -> list[Element]:
    found = [element for file in trees.files for element in file.dataset if element.tag == PIXEL_DATA]
    return trees.some(found)


def _fragments(trees: Trees) -> list[Fragments]:
    return [element.value for element in _pixels(trees) if isinstance(element.value, Fragments)]


@on_trees
def voxels_resized(trees: Trees) -> None:
    """Pixel data are cut, extended, emptied, or odd."""
    kind = trees.random.randrange(5)
    for element in _pixels(trees):
        value = element.content
        if value:
            cut = trees.random.randrange(len(value))
            element.value = [b"", value[:cut], value + b"\0\0", value[:-1], value + value][kind]


@on_trees
def voxels_flipped(trees: Trees) -> None:
    """Bits of the pixel data or of a compressed stream flip."""
    for element in _pixels(trees):
        if isinstance(element.value, Fragments):
            parts = element.value.parts
            parts[:] = [_flipped(trees, part) for part in parts]
        elif element.content:
            element.value = _flipped(trees, element.content)


@on_trees
def voxels_constant(trees: Trees) -> None:
    """All voxels are the same."""
    for element in _pixels(trees):
        if element.content:
            element.value = trees.random.choice([b"\0\0", b"\xff\xff", b"\x01\x02"]) * (len(element.content) // 2)


@on_trees
def voxels_removed(trees: Trees) -> None:
    """No pixel data, or floating-point, or twice, or somewhere else."""
    kind = trees.random.randrange(4)
    for file in trees.some_files():
        pixels = file.first(PIXEL_DATA)
        if pixels is None:
            continue
        if kind == 0:
            file.dataset.remove(pixels)
        elif kind == 1:
            pixels.tag, pixels.vr = trees.random.choice([(0x7FE00008, b"OF"), (0x7FE00009, b"OD")])
        elif kind == 2:
            file.dataset.append(Element(PIXEL_DATA, pixels.vr, pixels.value, pixels.undefined))
        else:
            file.dataset.insert(0, Element(PIXEL_DATA, b"OW", b"\0" * 64))


@on_trees
def icon_image(trees: Trees) -> None:
    """An icon with rows, columns and pixel data of its own stands before the image."""
    us = [(0x00280010, 4), (0x00280011, 4), (0x00280100, 8), (0x00280101, 8), (0x00280102, 7), (0x00280103, 0)]
    for file in trees.some_files():
        icon = [Element(tag, b"US", struct.pack(f"{file.encoding.order}H", value)) for tag, value in us]
        file.set(0x00880200, b"SQ", b"")
        sequence = file.first(0x00880200)
        assert sequence is not None
        sequence.value = [Item([*icon, Element(PIXEL_DATA, b"OW", b"\1" * 16)])]


@on_trees
def fragments_reshaped(trees: Trees) -> None:
    """Fragments are split, joined, emptied, repeated, dropped, or not delimited."""
    kind = trees.random.randrange(7)
    for fragments in _fragments(trees):
        table, *parts = fragments.parts or [b""]
        place = trees.random.randrange(len(parts)) if parts else 0
        joined = b"".join(parts)
        half = (len(joined) // 4) * 2
        shapes = (
            [joined[:half], joined[half:]],
            [joined],
            [b"", *parts],
            [*parts, *parts],
            parts[:place] + parts[place + 1 :],
            [b""] * 2000 + parts,
            parts,
        )
        fragments.parts = [table, *shapes[kind]]
        fragments.delimited = kind != 6


@on_trees
def offset_table(trees: Trees) -> None:
    """The basic offset table points nowhere, backwards, or lacks."""
    values = [0, 1, 7, 1 << 20, 0xFFFFFFFF, trees.random.randrange(4096)]
    number = trees.random.randrange(8)
    table = b"".join(struct.pack("<L", trees.random.choice(values)) for _ in range(number))
    for fragments in _fragments(trees):
        fragments.parts = [table + trees.random.choice([b"", b"\1\2"]), *fragments.parts[1:]]


@on_trees
def extended_offset_table(trees: Trees) -> None:
    """An extended offset table (7FE0,0001/0002) that lies."""
    for file in trees.some_files():
        offsets = [trees.random.choice([0, 8, 1 << 40, (1 << 64) - 1]) for _ in range(3)]
        file.set(0x7FE00001, b"OV", struct.pack("<3Q", *offsets))
        file.set(0x7FE00002, b"OV", struct.pack("<3Q", *reversed(offsets)))


@on_trees
def stream_size(trees: Trees) -> None:
    """The compressed stream says another size than the header: larger than memory, zero, or one more."""
    value = trees.random.choice([0, 1, 16, 255, 4096, 20000, 65500, 0x7FFFFFFF])
    for fragments in _fragments(trees):
        fragments.parts = [fragments.parts[0], *(_resized(part, value) for part in fragments.parts[1:])]


@on_trees
def stream_truncated(trees: Trees) -> None:
    """A compressed stream ends too soon, or goes on."""
    for fragments in _fragments(trees):
        cut = trees.random.random()
        parts = [part[: int(len(part) * cut) // 2 * 2] for part in fragments.parts[1:]]
        fragments.parts = [fragments.parts[0], *parts]


@on_trees
def bomb(trees: Trees) -> None:
    """A few bytes that claim to be a very large image."""
    rows, columns = trees.random.choice([(65535, 65535), (30000, 30000), (20000, 20000), (8000, 65535)])
    for file in trees.some_files() if trees.random.random() < 0.5 else trees.files:
        for tag, value in ((0x00280010, rows), (0x00280011, columns)):
            file.set(tag, b"US", struct.pack(f"{file.encoding.order}H", value))
        pixels = file.first(PIXEL_DATA)
        if pixels and isinstance(pixels.value, Fragments):
            pixels.value.parts[1:] = [_with_size(part, rows, columns) for part in pixels.value.parts[1:]]


@on_trees
def rle_bomb(trees: Trees) -> None:
    """A run-length stream that goes on and on, with segments that lie."""
    segments = trees.random.choice([0, 1, 2, 15, 16, 1 << 30])
    run = b"\x81\x00" * trees.random.choice([10, 10_000, 400_000])
    offsets = [trees.random.choice([64, 0, 66, 1 << 31]) for _ in range(15)]
    for fragments in _fragments(trees):
        stream = struct.pack("<16L", segments, *offsets) + run
        fragments.parts = [fragments.parts[0], *[stream for _ in fragments.parts[1:]]]


@on_trees
def deflate_bomb(trees: Trees) -> None:
    """A deflated data set that inflates to many times its size."""
    size = trees.random.choice([1 << 20, 1 << 24, 64 << 20])
    file = trees.random.choice(trees.files)
    if file.encoding.deflated:
        file.set(0x00091010, b"OB", bytes(size))


@on_trees
def modality_lut(trees: Trees) -> None:
    """A modality lookup table, whole or broken."""
    random = trees.random
    descriptor = struct.pack("<3H", *(random.choice([0, 1, 16, 255, 4096, 65535]) for _ in range(3)))
    data = random.randbytes(random.choice([0, 2, 8192]))
    for file in trees.some_files():
        file.set(0x00283000, b"SQ", b"")
        sequence = file.first(0x00283000)
        assert sequence is not None
        elements = [Element(0x00283002, b"US", descriptor), Element(0x00283006, b"OW", data)]
        sequence.value = [Item(elements[: random.choice([0, 1, 2, 2, 2])])]


def _flipped(trees: Trees, value: bytes) -> bytes:
    spoilt = bytearray(value)
    for _ in range(trees.random.randint(1, 6) if spoilt else 0):
        spoilt[trees.random.randrange(len(spoilt))] ^= 1 << trees.random.randrange(8)
    return bytes(spoilt)


def _resized(stream: bytes, value: int) -> bytes:
    for marker, distance in MARKERS.items():
        place = stream.find(marker)
        if place >= 0:
            size = struct.pack(
                ">L" if marker == b"\xff\x51" else ">H", value if marker == b"\xff\x51" else value % SHIFT
            )
            place += distance
            return stream[:place] + size + stream[place + len(size) :]
    return stream


def _with_size(stream: bytes, rows: int, columns: int) -> bytes:
    for marker, distance in MARKERS.items():
        place = stream.find(marker)
        if place >= 0:
            is_siz = marker == b"\xff\x51"
            size = struct.pack(">LL", columns, rows) if is_siz else struct.pack(">HH", rows, columns)
            place += distance
            return stream[:place] + size + stream[place + len(size) :]
    return stream
