"""Copies: the same image exported twice, under the same UIDs or under new ones."""

import hashlib
from collections.abc import Hashable, Sequence
from itertools import chain
from operator import attrgetter

from fedsite.dicom.model import Frame, Instance
from fedsite.dicom.voxels.reading import Plane, stored_planes


def drop_identical(frames: Sequence[Frame]) -> tuple[list[Frame], int]:
    """The frames without identical copies, and how many were dropped.

    Frames are copies when place, scale and stored pixels agree. All or nothing: where the images at one place
    differ, the series holds more than one volume, and single blank slices that happen to be equal prove nothing.
    """
    places: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        places.setdefault(_place(frame), []).append(frame)
    repeated = [copies for copies in places.values() if len(copies) > 1]
    if not repeated or any(frame.instance.pixels.fault for frame in frames):
        return list(frames), 0
    try:
        # One place, in the middle of the head, tells nearly always: points in time are not read to their end.
        if _are_copies([repeated[len(repeated) // 2]]) and _are_copies(repeated):
            return [copies[0] for copies in places.values()], len(frames) - len(places)
    except Exception:  # noqa: BLE001 - damaged pixels cannot be compared; the other rules say what is wrong with them
        return list(frames), 0
    return list(frames), 0


def _are_copies(repeated: Sequence[Sequence[Frame]]) -> bool:
    """Whether at each of these places all frames are the same. Each file is read once, whatever it holds."""
    by_instance: dict[Instance, list[Frame]] = {}
    for frame in chain.from_iterable(repeated):
        by_instance.setdefault(frame.instance, []).append(frame)
    contents: dict[tuple[Instance, int], Hashable] = {}
    for instance, own in by_instance.items():
        own.sort(key=attrgetter("index"))
        for frame, plane in zip(own, stored_planes(instance, [frame.index for frame in own]), strict=True):
            contents[instance, frame.index] = _content(frame, plane)
    return all(len({contents[frame.instance, frame.index] for frame in copies}) == 1 for copies in repeated)


def _place(frame: Frame) -> Hashable:
    if frame.position is None:
        return frame.instance.sop_instance, frame.index
    return frame.position, frame.orientation


def _content(frame: Frame, plane: Plane) -> Hashable:
    """What copies have in common, in whatever transfer syntax they came: scale and stored values."""
    return frame.rescale, plane.shape, hashlib.sha256(plane.astype("<i8").tobytes()).digest()
