"""What was read of some files as plain values for JSON, and back: frames with their instances, or the rule instead.

Files that lie together have most of their values in common. So every value stands once, in a pool, and a file says
where it differs from the file before it, and the value's place in the pool. What comes back shares its values just so,
which keeps 100,000 files in little memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from fedsite.dicom.header.frames import Read
from fedsite.dicom.model import Frame, Instance, PixelLayout, Traces

# Where a file lies is known to whoever asks for it; a frame's instance comes before it.
Json = Any
"""What `json` reads and writes."""

_INSTANCE = [field.name for field in fields(Instance) if field.name not in ("path", "member")]
_MEMBER = [field.name for field in fields(Instance)].index("member") - 1  # how many of them stand before it
_FRAME = [field.name for field in fields(Frame) if field.name != "instance"]
_instance_values, _frame_values = attrgetter(*_INSTANCE), attrgetter(*_FRAME)
_NESTED = {kind.__name__: kind for kind in (PixelLayout, Traces)}


def pack(reads: Iterable[Read]) -> dict[str, Any]:
    """What was read of some files, in order, for JSON."""
    pool: dict[tuple[type, Any], int] = {}

    def place(value: object) -> int:
        return pool.setdefault((type(value), value), len(pool))

    def changes(values: Iterable[object], before: list[int]) -> list[int]:
        """Pairs of numbers, which field and which value of the pool; `before` is brought up to date."""
        found = []
        for field, new in enumerate(map(place, values)):
            if before[field] != new:
                before[field] = new
                found += [field, new]
        return found

    def packed(read: Read) -> Json:
        if isinstance(read, str):
            return read
        instance = changes(_instance_values(read[0].instance), instance_before)
        return [instance, *(changes(_frame_values(frame), frame_before) for frame in read)]

    instance_before, frame_before = [-1] * len(_INSTANCE), [-1] * len(_FRAME)
    files = [packed(read) for read in reads]
    return {"pool": [_plain(value) for _, value in pool], "files": files}


def unpack(packed: Mapping[str, Any], places: Iterable[tuple[str, str]]) -> Iterator[Read]:
    """What `pack` was given; `places` are path and member of each file. Raises LookupError, TypeError, ValueError."""
    pool = [_value(plain) for plain in packed["pool"]]
    of_instance: list[Any] = [None] * len(_INSTANCE)
    of_frame: list[Any] = [None] * len(_FRAME)

    def apply(changes: list[int], values: list[Any]) -> list[Any]:
        for field, place in zip(changes[::2], changes[1::2], strict=True):
            values[field] = pool[place]
        return values

    for (path, member), file in zip(places, packed["files"], strict=True):
        if isinstance(file, str):
            yield file
        else:
            values = apply(file[0], of_instance)
            instance = Instance(*[path, *values[:_MEMBER], member, *values[_MEMBER:]])
            yield tuple(Frame(instance, *apply(frame, of_frame)) for frame in file[1:])


def _plain(value: object) -> Json:
    """As JSON knows it: a list says first what it stands for."""
    if isinstance(value, tuple):
        return ["tuple", *map(_plain, value)]
    if isinstance(value, frozenset):
        return ["frozenset", *sorted(value)]
    if type(value).__name__ in _NESTED:
        return [type(value).__name__, *(_plain(getattr(value, field.name)) for field in fields(value))]  # type: ignore[arg-type] # a dataclass: _NESTED names no others
    return value


def _value(plain: Json) -> Json:
    if not isinstance(plain, list):
        return plain
    kind, *parts = plain
    if kind == "frozenset":
        return frozenset(parts)
    values = map(_value, parts)
    return tuple(values) if kind == "tuple" else _NESTED[kind](*values)
