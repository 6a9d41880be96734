"""Copies: the same image exported twice, under the same UIDs or under new ones."""

import hashlib
from collections.abc import Hashable, Sequence

from fedsite.dicom.model import Frame
from fedsite.dicom.voxels.reading import stored_plane


def drop_identical(frames: Sequence[Frame]) -> tuple[list[Frame], int]:
    """The frames without identical copies, and how many were dropped.

    Frames are copies when place, scale and stored pixels agree. All or nothing: where the images at one place
    differ, the series holds more than one volume, and single blank slices that happen to be equal prove nothing.
    """
    places: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        places.setdefault(_place(frame), []).append(frame)
    if len(places) == len(frames):
        return list(frames), 0
    try:
        if all(len({_content(frame) for frame in copies}) == 1 for copies in places.values() if len(copies) > 1):
            return [copies[0] for copies in places.values()], len(frames) - len(places)
    except Exception:  # noqa: BLE001 - damaged pixels cannot be compared; the other rules say what is wrong with them
        return list(frames), 0
    return list(frames), 0


def _place(frame: Frame) -> Hashable:
    if frame.position is None:
        return frame.instance.sop_instance, frame.index
    return frame.position, frame.orientation


def _content(frame: Frame) -> tuple[object, ...]:
    """What copies have in common, in whatever transfer syntax they came: scale and stored values."""
    plane = stored_plane(frame)
    return frame.rescale, plane.shape, hashlib.sha256(plane.astype("<i8").tobytes()).digest()
