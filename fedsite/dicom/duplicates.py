"""Copies: the same image exported twice, under the same UIDs or under new ones."""

import hashlib
from collections.abc import Hashable, Sequence

from fedsite.dicom.model import Frame
from fedsite.dicom.pixeldata import NATIVE


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
    except OSError:
        pass  # What cannot be read cannot be compared; reading the volume will say so.
    return list(frames), 0


def _place(frame: Frame) -> Hashable:
    if frame.position is None:
        return frame.instance.sop_instance, frame.index
    return frame.position, frame.orientation


def _content(frame: Frame) -> tuple[object, ...]:
    """What two copies must have in common: scale and a digest of the stored pixels."""
    instance, pixels = frame.instance, frame.instance.pixels
    native = instance.transfer_syntax in NATIVE
    with open(instance.path, "rb") as file:  # noqa: PTH123 - paths are kept as text
        file.seek((pixels.offset or 0) + (frame.index * pixels.frame_bytes if native else 0))
        digest = hashlib.sha256(file.read(pixels.frame_bytes if native else -1)).digest()
    return frame.rescale, 0 if native else frame.index, digest
