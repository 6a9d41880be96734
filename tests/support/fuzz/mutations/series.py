"""Mutations of a series: slices that lack, repeat, lie elsewhere, or belong to another."""

import math
from collections.abc import Callable
from random import Random

from support.fuzz.draft import (
    FRAME_OF_REFERENCE,
    ORIENTATION,
    POSITION,
    SERIES,
    SOP_INSTANCE,
    SPACING,
    Trees,
    decimal_string,
    floats,
    on_trees,
)
from support.fuzz.elements import Fragments, even, parse

PIXEL_DATA = 0x7FE00010
PATIENT_ID = 0x00100020


@on_trees
def drop_slices(trees: Trees) -> None:
    """Some files are not there."""
    for _ in range(trees.random.randint(1, max(1, len(trees.files) - 1))):
        if len(trees.files) > 1:
            trees.files.pop(trees.random.randrange(len(trees.files)))


@on_trees
def copy_slices(trees: Trees) -> None:
    """Some files are there twice: the same, under a new UID, or with other voxels."""
    kind = trees.random.randrange(3)
    for file in trees.some_files():
        copy = file.copy()
        if kind:
            copy.set(SOP_INSTANCE, b"UI", b"1.2.3.%d" % trees.random.randrange(10**9))
        pixels = copy.first(PIXEL_DATA)
        if kind == 2 and pixels and isinstance(pixels.value, bytes) and pixels.value:
            spoilt = bytearray(pixels.value)
            spoilt[trees.random.randrange(len(spoilt))] ^= 1
            pixels.value = bytes(spoilt)
        trees.files.append(copy)


@on_trees
def foreign_files(trees: Trees) -> None:
    """Files of another series come in, some under the UID of this one."""
    other = trees.corpus[trees.random.choice(sorted(trees.corpus))]
    own = trees.files[0].first(SERIES)
    claims = trees.random.random() < 0.7
    for content in trees.random.sample(other, trees.random.randint(1, min(3, len(other)))):
        try:
            file = parse(content)
        except ValueError:
            continue
        if claims and own:
            file.set(SERIES, b"UI", own.content)
        trees.files.append(file)


@on_trees
def other_identity(trees: Trees) -> None:
    """Some files belong to another series, frame of reference or patient."""
    tag = trees.random.choice([SERIES, FRAME_OF_REFERENCE, PATIENT_ID, SOP_INSTANCE])
    value = trees.random.choice([b"", b"1.2.3.4", b"OTHER-ONE-9"])
    for file in trees.some_files():
        file.set(tag, b"LO" if tag == PATIENT_ID else b"UI", value)


@on_trees
def positions_repeat(trees: Trees) -> None:
    """Slices lie where another one lies, exactly or nearly."""
    elements = trees.planes(POSITION)
    near = trees.random.choice([0, 0.001, 0.009, 0.011, 0.05])
    for element in trees.some(elements):
        if source := floats(trees.random.choice(elements)):
            element.value = decimal_string([source[0], source[1], *(value + near for value in source[2:])])


@on_trees
def positions_exchanged(trees: Trees) -> None:
    """Two slices exchange their places."""
    elements = trees.planes(POSITION)
    if len(elements) > 1:
        one, other = trees.random.sample(elements, 2)
        one.value, other.value = other.value, one.value


@on_trees
def positions_jittered(trees: Trees) -> None:
    """Slices lie a little off, from nothing to far beyond what rounding explains."""
    amount = 10 ** trees.random.uniform(-4, 1.5)
    axes = trees.random.choice([(0, 1, 2), (0,), (1,), (2,)])
    for element in trees.some(trees.planes(POSITION)):
        numbers = floats(element)
        for axis in axes[: len(numbers)]:
            if axis < len(numbers):
                numbers[axis] += trees.random.uniform(-amount, amount)
        if numbers:
            element.value = decimal_string(numbers)


@on_trees
def positions_sheared(trees: Trees) -> None:
    """The stack leans, by less or more than half a degree."""
    degrees = trees.random.choice([0.1, 0.45, 0.49, 0.51, 0.55, 1, 5, 20, 80])
    axis, by = trees.random.sample(range(3), 2)
    _remap(trees, lambda values: _plus(values, axis, math.tan(math.radians(degrees)) * values[by]))


@on_trees
def positions_stretched(trees: Trees) -> None:
    """The steps grow along the stack, or all lie in one place."""
    axis = trees.random.randrange(3)
    growth = trees.random.choice([-1.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1])
    _remap(trees, lambda values: _plus(values, axis, growth * values[axis] * (abs(values[axis]) if growth > -1 else 1)))


@on_trees
def one_gap(trees: Trees) -> None:
    """Everything behind a place is moved: a step unlike the others, or a missing slice."""
    axis = trees.random.randrange(3)
    elements = [element for element in trees.planes(POSITION) if len(floats(element)) == 3]
    if elements:
        limit = floats(trees.random.choice(elements))[axis]
        shift = trees.random.choice([0.02, 0.06, 0.08, 0.2, 1, 3, 5, 6, -1, -3])
        _remap(trees, lambda values: _plus(values, axis, shift if values[axis] > limit else 0))


@on_trees
def orientations_turned(trees: Trees) -> None:
    """The planes are turned, in themselves or against their stack, by little or much."""
    degrees = trees.random.choice([0.01, 0.03, 0.1, 0.4, 0.6, 2, 45, 90, 180])
    turn = _rotation(trees.random, math.radians(degrees))
    for element in trees.some(trees.planes(ORIENTATION)):
        numbers = floats(element)
        if len(numbers) == 6:
            element.value = decimal_string([*_turned(turn, numbers[:3]), *_turned(turn, numbers[3:])])


@on_trees
def orientations_skewed(trees: Trees) -> None:
    """Row and column direction are exchanged, equal, opposite, or not perpendicular."""
    kind = trees.random.randrange(5)
    lean = trees.random.choice([1e-4, 1e-3, 2e-3, 3e-3, 0.1, 1])
    for element in trees.some(trees.planes(ORIENTATION)):
        numbers = floats(element)
        if len(numbers) == 6:
            row, column = numbers[:3], numbers[3:]
            leaning = [a + lean * b for a, b in zip(row, column, strict=True)]
            pairs = ((column, row), (row, row), ([-a for a in row], column), (leaning, column), (row, [0.0, 0.0, 0.0]))
            element.value = decimal_string([value for vector in pairs[kind] for value in vector])


@on_trees
def spacings_differ(trees: Trees) -> None:
    """Some slices have other pixels: a little larger, or the two distances exchanged."""
    factor = trees.random.choice([0.0, 1.00005, 1.0002, 1.01, 2])
    for element in trees.some(trees.planes(SPACING)):
        numbers = floats(element)
        element.value = decimal_string([factor * number for number in numbers] if factor else numbers[::-1])


@on_trees
def split_by(trees: Trees) -> None:
    """Something that tells volumes apart differs between slices, so that the series falls into parts."""
    tag, vr, values = trees.random.choice(
        (
            (0x00080008, b"CS", (b"ORIGINAL\\PRIMARY\\A", b"DERIVED\\SECONDARY\\ADC", b"ORIGINAL\\PRIMARY\\LOCALIZER")),
            (0x00180081, b"DS", (b"10", b"10.05", b"20")),
            (0x00200100, b"IS", (b"1", b"2")),
            (0x00200012, b"IS", (b"1", b"2", b"3")),
            (0x00200013, b"IS", (b"1", b"1", b"77")),
            (0x00280004, b"CS", (b"MONOCHROME1", b"MONOCHROME2", b"RGB", b"PALETTE COLOR")),
            (0x00181120, b"DS", (b"0", b"15")),
            (0x00185100, b"CS", (b"HFS", b"FFS", b"HFDL")),
        )
    )
    for file in trees.files:
        file.set(tag, vr, trees.random.choice(values))


@on_trees
def voxels_exchanged(trees: Trees) -> None:
    """Two files exchange their pixel data, which may be of another size or compressed otherwise."""
    other = trees.corpus[trees.random.choice(sorted(trees.corpus))]
    try:
        donor = parse(trees.random.choice(other)).first(PIXEL_DATA)
    except ValueError:
        return
    file = trees.random.choice(trees.files)
    pixels = file.first(PIXEL_DATA)
    if donor and pixels:
        pixels.value, pixels.undefined = donor.value, isinstance(donor.value, Fragments)


@on_trees
def patient_named_everywhere(trees: Trees) -> None:
    """The patient's name and number stand in every description, as they do in careless exports."""
    named = b"".join(element.content for element in trees.files[0].find(0x00100010, PATIENT_ID))[:48]
    for file in trees.files:
        for tag in (0x0008103E, 0x00181030, 0x00204000, 0x00081030, 0x00100030, 0x00080050, 0x00281055):
            file.set(tag, b"LO", even(named, b"LO"))


def _remap(trees: Trees, change: Callable[[list[float]], list[float]]) -> None:
    for element in trees.planes(POSITION):
        numbers = floats(element)
        if len(numbers) == 3:
            element.value = decimal_string(change(numbers))


def _plus(values: list[float], axis: int, amount: float) -> list[float]:
    return [value + amount * (index == axis) for index, value in enumerate(values)]


def _rotation(random: Random, angle: float) -> list[list[float]]:
    axis = [random.gauss(0, 1) for _ in range(3)]
    length = math.hypot(*axis) or 1.0
    x, y, z = (part / length for part in axis)
    c, s = math.cos(angle), math.sin(angle)
    return [
        [c + x * x * (1 - c), x * y * (1 - c) - z * s, x * z * (1 - c) + y * s],
        [y * x * (1 - c) + z * s, c + y * y * (1 - c), y * z * (1 - c) - x * s],
        [z * x * (1 - c) - y * s, z * y * (1 - c) + x * s, c + z * z * (1 - c)],
    ]


def _turned(matrix: list[list[float]], vector: list[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]
