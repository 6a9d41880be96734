"""Mutations of the structure: lengths that lie, elements that lack, repeat, nest or change their representation."""

import struct

from support.fuzz.draft import Trees, on_trees
from support.fuzz.elements import UNDEFINED, Element, Item, even, walk

REPRESENTATIONS = (b"DS", b"IS", b"US", b"SS", b"UL", b"FD", b"FL", b"SQ", b"UN", b"OB", b"OW", b"LO", b"UI", b"PN")
FUNCTIONAL_GROUPS = (0x52009229, 0x52009230)


def _chosen(trees: Trees, most: int = 3) -> list[tuple[list[Element], Element]]:
    """Some elements anywhere in some files, each with the list that holds it."""
    found = []
    for file in trees.some_files():
        elements = list(walk(file.dataset))
        found += trees.random.sample(elements, min(len(elements), trees.random.randint(1, most)))
    return found


@on_trees
def representation_swapped(trees: Trees) -> None:
    """Values are declared to be of another representation."""
    for _, element in _chosen(trees):
        element.vr = trees.random.choice(REPRESENTATIONS)


@on_trees
def representation_unknown(trees: Trees) -> None:
    """A representation that does not exist, or bytes that are no letters."""
    vr = trees.random.choice([b"ZZ", b"\0\0", b"\xff\xff", b"ds", b"??"])
    for _, element in _chosen(trees, 1):
        element.vr = vr


@on_trees
def length_lies(trees: Trees) -> None:
    """A value is said to be shorter, longer, odd, or as long as the world."""
    for _, element in _chosen(trees, 1):
        true = len(element.content)
        element.length = trees.random.choice([0, 1, true + 1, true + 2, max(0, true - 1), 0x7FFF, 0xFFFFFFFE, 1 << 31])


@on_trees
def length_undefined(trees: Trees) -> None:
    """A value that is no sequence has no length, or a sequence none although it had one."""
    for _, element in _chosen(trees, 1):
        if isinstance(element.value, bytes):
            element.length = UNDEFINED
            if trees.random.random() < 0.5:
                element.vr = trees.random.choice([b"UN", b"OB", b"SQ"])
        else:
            element.undefined = True


@on_trees
def odd_length(trees: Trees) -> None:
    """Values with an odd number of bytes."""
    for _, element in _chosen(trees):
        if element.content:
            element.value = element.content[:-1] if len(element.content) % 2 == 0 else element.content


@on_trees
def element_removed(trees: Trees) -> None:
    """Elements lack, in one file or in all of them."""
    for holder, element in _chosen(trees):
        if element in holder:
            holder.remove(element)


@on_trees
def tag_removed_everywhere(trees: Trees) -> None:
    """An anonymiser took one attribute away, at every depth."""
    tags = sorted({element.tag for _, element in walk(trees.files[0].dataset)})
    tag = trees.random.choice(tags) if tags else 0
    for file in trees.files:
        for holder, element in walk(file.dataset):
            if element.tag == tag:
                holder[:] = [each for each in holder if each.tag != tag]


@on_trees
def element_twice(trees: Trees) -> None:
    """An element stands twice, with the same or another value."""
    for holder, element in _chosen(trees):
        value = element.value
        if isinstance(value, bytes) and trees.random.random() < 0.7:
            value = value[::-1]
        holder.insert(trees.random.randint(0, len(holder)), Element(element.tag, element.vr, value, element.undefined))


@on_trees
def order_lost(trees: Trees) -> None:
    """The elements do not stand in the order of their tags."""
    for file in trees.some_files():
        trees.random.shuffle(file.dataset)


@on_trees
def tag_changed(trees: Trees) -> None:
    """Values stand under a neighbouring, private or reserved tag."""
    for _, element in _chosen(trees):
        element.tag = trees.random.choice(
            [element.tag ^ 1, element.tag + 0x10000, 0x00091010, 0xFFFEE00D, 0xFFFEE000, 0]
        )


@on_trees
def nested_deep(trees: Trees) -> None:
    """A sequence in a sequence in a sequence, thousands of times, with and without lengths."""
    depth = trees.random.choice([5, 60, 400, 1200, 5000])
    undefined = trees.random.random() < 0.5
    tag = trees.random.choice([0x00081140, 0x00091010, *FUNCTIONAL_GROUPS, 0x00283000])
    body = struct.pack("<HH2sH4s", 0x0020, 0x0013, b"IS", 4, b"1   ")
    for _ in range(depth):
        length = UNDEFINED if undefined else len(body)
        body = struct.pack("<HHL", 0xFFFE, 0xE000, length) + body
        body += struct.pack("<HHL", 0xFFFE, 0xE00D, 0) if undefined else b""
        length = UNDEFINED if undefined else len(body)
        body = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, length) + body
        body += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if undefined else b""
    inner = body[12:-8] if undefined else body[12:]
    length_field = UNDEFINED if undefined else None
    for file in trees.some_files():
        file.set(tag, b"SQ", inner)
        element = file.first(tag)
        assert element is not None
        element.length = length_field
        if undefined:
            element.value = element.content + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


@on_trees
def many_elements(trees: Trees) -> None:
    """Thousands of private elements or items, or one value with thousands of parts."""
    kind = trees.random.randrange(3)
    number = trees.random.choice([500, 5000, 30000])
    file = trees.random.choice(trees.files)
    if kind == 0:
        file.dataset += [Element(0x00090000 + 0x1000 + index, b"LO", b"ab") for index in range(min(number, 0xE000))]
        file.dataset.sort(key=lambda element: element.tag)
    elif kind == 1:
        file.set(0x00081140, b"SQ", b"")
        file.dataset[-1].undefined = file.dataset[-1].undefined
        sequence = file.first(0x00081140)
        assert sequence is not None
        sequence.value = [Item([Element(0x00081155, b"UI", b"1.2\0")]) for _ in range(number)]
    else:
        tag = trees.random.choice([0x00080008, 0x00200032, 0x00180081])
        file.set(tag, b"UT", even(b"\\".join([b"1"] * number)))


@on_trees
def private_block(trees: Trees) -> None:
    """Private groups with creators that lie, lack or repeat, and values of any representation."""
    for file in trees.some_files():
        group = trees.random.choice([0x0009, 0x0019, 0x0029, 0x0043, 0x2001, 0x2005, 0x7FE1])
        creator = trees.random.choice([b"SIEMENS MR HEADER", b"GEMS_PARM_01", b"Philips Imaging DD 001", b"", b"\xff"])
        for block in trees.random.sample(range(0x10, 0x20), 3):
            file.set(group << 16 | block, trees.random.choice([b"LO", b"UN", b"SQ"]), creator)
            for number in trees.random.sample(range(0x100), 4):
                vr, value = trees.random.choice(REPRESENTATIONS), trees.random.randbytes(trees.random.randrange(40))
                file.set(group << 16 | block << 8 | number, vr, value)


@on_trees
def items_spoilt(trees: Trees) -> None:
    """A sequence loses its items, gains empty ones, repeats or reorders them."""
    sequences = [e for file in trees.files for _, e in walk(file.dataset) if isinstance(e.value, list)]
    kind = trees.random.randrange(5)
    for element in trees.some(sequences)[:3]:
        assert isinstance(element.value, list)
        items = list(element.value)
        trees.random.shuffle(items)
        element.value = [[], [Item([]), *element.value], element.value * 2, items, element.value[:-1]][kind]


@on_trees
def sequence_as_value(trees: Trees) -> None:
    """A value where a sequence is expected, and a sequence where a value is."""
    for _, element in _chosen(trees, 2):
        if isinstance(element.value, bytes):
            element.vr, element.value = b"SQ", [Item([Element(element.tag, element.vr, element.value)])]
        elif isinstance(element.value, list):
            element.vr, element.value, element.undefined = b"LO", b"no sequence ", False
