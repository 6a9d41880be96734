"""Mutations of values: what a header says becomes impossible, or just wrong."""

import struct

from support.fuzz.draft import (
    COLUMNS,
    FRAMES,
    ORIENTATION,
    POSITION,
    ROWS,
    SPACING,
    THICKNESS,
    Trees,
    decimal_string,
    floats,
    on_trees,
)
from support.fuzz.elements import Element, even, walk

NUMBERS = (
    *(b"nan", b"NaN", b"inf", b"-inf", b"1e400", b"-1e38", b"3.5e38", b"1e300", b"99999", b"-99999", b"1e5"),
    *(b"0", b"-0", b"0.0", b"-1", b"1", b"1e-300", b"1e-45", b"1e-5", b"0.001", b"0.0011", b"1e-3", b"500"),
    *(b"", b" ", b"abc", b"1,5", b"0x10", b"1_000", b"\xff\xfe", b"\0\0", b"+", b"1e", b"1 2", b"\xd9\xa1\xd9\xa2"),
    *(b"1.0\\", b"\\", b"9" * 400, b"2147483648", b"-2147483649", b"1.5", b"18446744073709551616"),
)
SHORTS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 32, 64, 255, 256, 32767, 32768, 46340, 65535)

INSTANCE_NUMBER, ACQUISITION, TEMPORAL, ECHO_TIME = 0x00200013, 0x00200012, 0x00200100, 0x00180081
SLOPE, INTERCEPT, PADDING = 0x00281053, 0x00281052, 0x00280120
TRANSFER_SYNTAX, SOP_CLASS = 0x00020010, 0x00080016
DIFFUSION = (
    *((0x00189087, b""), (0x00189089, b""), (0x00189075, b""), (0x00431039, b"GEMS_PARM_01")),
    *((0x0019100C, b"SIEMENS MR HEADER"), (0x0019100E, b"SIEMENS MR HEADER")),
    *((0x00291010, b"SIEMENS CSA HEADER"), (0x00291110, b"SIEMENS CSA HEADER")),
    *((0x20011003, b"Philips Imaging DD 001"), (0x20011004, b"Philips Imaging DD 001")),
)
TEXTS = (0x00080008, 0x00080070, 0x00081090, 0x00080060, 0x00280004, 0x00100020, 0x0020000E, 0x00080005)


@on_trees
def geometry_number(trees: Trees) -> None:
    """One component of a position, orientation or spacing is no usable number."""
    tag = trees.random.choice([POSITION, ORIENTATION, SPACING, THICKNESS])
    place, value = trees.random.randrange(6), trees.random.choice(NUMBERS)
    for element in trees.some(trees.planes(tag)):
        parts = element.content.rstrip(b" \0").split(b"\\")
        parts[place % len(parts)] = value
        element.value = even(b"\\".join(parts), b"DS")


@on_trees
def geometry_count(trees: Trees) -> None:
    """A vector has a component too few or too many, or is one value altogether."""
    tag = trees.random.choice([POSITION, ORIENTATION, SPACING])
    kind = trees.random.randrange(4)
    for element in trees.some(trees.planes(tag)):
        parts = element.content.rstrip(b" \0").split(b"\\")
        parts = [parts[:-1], [*parts, b"1"], [trees.random.choice(NUMBERS)], parts * 2][kind]
        element.value = even(b"\\".join(parts), b"DS")


@on_trees
def geometry_scaled(trees: Trees) -> None:
    """Positions, orientations or spacings are multiplied: other units, or nonsense."""
    tag = trees.random.choice([POSITION, ORIENTATION, SPACING])
    factor = trees.random.choice([-1, 1e-6, 1e-3, 0.1, 0.5, 0.999, 1.0005, 1.001, 1.005, 1.02, 2, 10, 1e3, 1e6])
    for element in trees.some(trees.planes(tag)):
        if numbers := floats(element):
            element.value = decimal_string([factor * number for number in numbers])


@on_trees
def other_number(trees: Trees) -> None:
    """Any other number of the header that something is decided by."""
    tag = trees.random.choice([INSTANCE_NUMBER, ACQUISITION, TEMPORAL, ECHO_TIME, SLOPE, INTERCEPT, FRAMES, PADDING])
    value = even(trees.random.choice(NUMBERS), b"DS")
    elements = trees.planes(tag)
    if elements:
        for element in trees.some(elements):
            element.value = value
    else:
        for file in trees.some_files():
            file.set(tag, b"DS", value)


@on_trees
def pixel_number(trees: Trees) -> None:
    """Rows, columns, bits, sign or samples are others than the pixel data were written with."""
    tag = trees.random.choice([ROWS, COLUMNS, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280002, 0x00280006])
    near = trees.random.random() < 0.5
    value = trees.random.choice(SHORTS)
    for file in trees.some_files():
        for element in file.find(tag)[:1]:
            order = file.encoding.order
            if near and len(element.content) == 2:
                (old,) = struct.unpack(f"{order}H", element.content)
                value = max(0, old + trees.random.choice([-8, -2, -1, 1, 2, 8, old])) & 0xFFFF
            element.value = struct.pack(f"{order}H", value)


@on_trees
def pixel_number_written_otherwise(trees: Trees) -> None:
    """Rows, columns or bits as text, as four bytes, twice, or not at all."""
    tag = trees.random.choice([ROWS, COLUMNS, 0x00280100, 0x00280101, 0x00280102, 0x00280103])
    kind = trees.random.randrange(6)
    for file in trees.some_files():
        for element in file.find(tag)[:1]:
            written = (
                (b"DS", b"12"),
                (b"UL", struct.pack("<L", 12)),
                (b"US", element.content * 2),
                (b"US", b""),
                (b"FD", struct.pack("<d", float("nan"))),
                (b"IS", b"-12 "),
            )
            element.vr, element.value = written[kind]


@on_trees
def frames_claimed(trees: Trees) -> None:
    """The number of frames is not that of the pixel data."""
    value = trees.random.choice([b"0", b"-1", b"1", b"2", b"3", b"4", b"6", b"7", b"65535", b"65537", b"999999999"])
    for file in trees.some_files():
        file.set(FRAMES, b"IS", value)


@on_trees
def transfer_syntax(trees: Trees) -> None:
    """The file states another transfer syntax than it is written in."""
    syntaxes = (
        *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
        *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 100, 102, 201, 202, 203)),
        *("1.2.840.10008.1.2.5", "1.2.840.113619.5.2", "", "1.2.3", "x" * 70),
    )
    stated = even(trees.random.choice(syntaxes).encode(), b"UI")
    for file in trees.some_files():
        for element in file.meta:
            if element.tag == TRANSFER_SYNTAX:
                element.value = stated


@on_trees
def object_class(trees: Trees) -> None:
    """The object calls itself one of another class."""
    kinds = ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "7", "7.2", "66", "66.4", "88.22", "128", "481.3", "")
    value = even(f"1.2.840.10008.5.1.4.1.1.{trees.random.choice(kinds)}".encode(), b"UI")
    for file in trees.some_files():
        file.set(SOP_CLASS, b"UI", value)


@on_trees
def text(trees: Trees) -> None:
    """A text that something is decided by is empty, endless, binary, or many."""
    tag = trees.random.choice(TEXTS)
    value = trees.random.choice(
        (b"", b"\\", b"\\\\\\", b"\xff" * 8, b"\0" * 8, b"A\\B\\C\\D", b"{0}{x.__class__}%s", b"x" * 65_000, b"\x1b$B")
    )
    for file in trees.some_files():
        elements = file.find(tag)
        for element in elements:
            element.value = even(value, element.vr)
        if not elements:
            file.set(tag, b"LO", value)


@on_trees
def diffusion(trees: Trees) -> None:
    """b-value, direction and their vendors' private forms hold garbage, of any representation."""
    tag, creator = trees.random.choice(DIFFUSION)
    random = trees.random
    values = (
        *((b"FD", struct.pack("<d", random.choice([float("nan"), float("inf"), -1.0, 1e300, 1000.0, 0.0]))),) * 2,
        *((b"IS", random.choice(NUMBERS)), (b"DS", random.choice(NUMBERS)), (b"UN", random.randbytes(9))),
        *((b"IS", b"1000000800\\8\\0\\0"), (b"FL", struct.pack("<f", 800)), (b"CS", b"DIRECTIONAL")),
        (b"UN", b"SV10\4\3\2\1" + struct.pack("<LL", random.choice([0, 1, 1 << 30]), 77) + random.randbytes(200)),
        (b"OB", b"SV10" + random.randbytes(random.randrange(400))),
    )
    vr, value = random.choice(values)
    for file in trees.some_files():
        if creator:
            file.set((tag & 0xFFFF0000) | (tag >> 8 & 0xFF), b"LO", creator)
        file.set(tag, vr, value)


@on_trees
def any_value(trees: Trees) -> None:
    """Some values anywhere become other bytes of the same length, or of none."""
    for file in trees.some_files():
        elements = [element for _, element in walk(file.dataset) if 0 < len(element.content) < 4096]
        for element in trees.random.sample(elements, min(len(elements), trees.random.randint(1, 4))):
            _spoil(element, trees)


def _spoil(element: Element, trees: Trees) -> None:
    length = len(element.content)
    kinds = (b"", b"\0" * length, b"\xff" * length, trees.random.randbytes(length), b"\\" * length, b"9" * length)
    element.value = trees.random.choice(kinds)
