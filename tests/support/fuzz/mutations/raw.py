"""Mutations of bytes, whatever they mean: the classics of fuzzing."""

from support.fuzz.draft import Draft, mutation

HEADER_BYTES = 2000


def _target(draft: Draft) -> tuple[int, bytearray]:
    index = draft.random.randrange(len(draft.files))
    return index, bytearray(draft.files[index])


def _place(draft: Draft, content: bytearray) -> int:
    """A place in the file: mostly in its header, where structure can break."""
    limit = min(len(content), HEADER_BYTES) if draft.random.random() < 0.8 else len(content)
    return draft.random.randrange(max(1, limit))


@mutation
def flip_bits(draft: Draft) -> None:
    """Single bits flip."""
    index, content = _target(draft)
    for _ in range(draft.random.randint(1, 12) if content else 0):
        content[_place(draft, content)] ^= 1 << draft.random.randrange(8)
    draft.files[index] = bytes(content)


@mutation
def set_bytes(draft: Draft) -> None:
    """Single bytes become others."""
    index, content = _target(draft)
    for _ in range(draft.random.randint(1, 8) if content else 0):
        content[_place(draft, content)] = draft.random.choice([0, 0xFF, 0x7F, 0x80, draft.random.randrange(256)])
    draft.files[index] = bytes(content)


@mutation
def truncate(draft: Draft) -> None:
    """The file ends too soon."""
    index, content = _target(draft)
    draft.files[index] = bytes(content[: _place(draft, content)])


@mutation
def truncate_all(draft: Draft) -> None:
    """All files end at the same length, as on a full disk."""
    longest = max(map(len, draft.files))
    draft.files[:] = [content[: draft.random.randrange(longest)] for content in draft.files]


@mutation
def insert(draft: Draft) -> None:
    """Bytes come in between."""
    index, content = _target(draft)
    place = _place(draft, content)
    content[place:place] = draft.random.randbytes(draft.random.choice([1, 2, 3, 8, 100]))
    draft.files[index] = bytes(content)


@mutation
def delete(draft: Draft) -> None:
    """Bytes are lost."""
    index, content = _target(draft)
    place = _place(draft, content)
    del content[place : place + draft.random.choice([1, 2, 3, 8, 100])]
    draft.files[index] = bytes(content)


@mutation
def overwrite(draft: Draft) -> None:
    """A stretch is zero, one, or noise, as after a bad sector."""
    index, content = _target(draft)
    place, length = _place(draft, content), draft.random.choice([4, 16, 64, 512])
    fill = draft.random.choice([b"\0" * length, b"\xff" * length, draft.random.randbytes(length)])
    content[place : place + length] = fill
    draft.files[index] = bytes(content)


@mutation
def repeat(draft: Draft) -> None:
    """A stretch stands twice."""
    index, content = _target(draft)
    place, length = _place(draft, content), draft.random.choice([2, 8, 64, 512])
    content[place:place] = content[place : place + length]
    draft.files[index] = bytes(content)


@mutation
def splice(draft: Draft) -> None:
    """The beginning of one file, the end of another."""
    index, content = _target(draft)
    name = draft.random.choice(sorted(draft.corpus))
    other = draft.random.choice(draft.corpus[name])
    place = _place(draft, content)
    draft.files[index] = bytes(content[:place]) + other[draft.random.randrange(len(other)) if other else 0 :]


@mutation
def rubbish(draft: Draft) -> None:
    """Files that are no DICOM at all lie beside the others."""
    noise = draft.random.randbytes(draft.random.randrange(3000))
    kinds = (b"", noise, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + noise, b"\x08\0" + noise, b"PK\3\4" + noise)
    draft.files.append(draft.random.choice(kinds))


@mutation
def bare(draft: Draft) -> None:
    """Preamble and meta information are lost: a bare data set, as in old archives."""
    for index, content in enumerate(draft.files):
        if content[128:132] == b"DICM" and content[132:136] == b"\2\0\0\0":
            draft.files[index] = content[144 + int.from_bytes(content[140:144], "little") :]
