"""From stored values to those that are compared: which of the scales that an object carries applies.

Rescale slope and intercept (the modality LUT, PS3.3 C.11.1) do. Two things stand beside them in MR:

* Philips writes into them what its display wants, differently for every series, and the scale that makes signals
  comparable into a private attribute (Chenevert et al., Transl Oncol 2014;7:65). Where that is kept, it is used.
* Maps of real-world values (C.7.6.16.2.11) start from the stored values too. One that agrees says nothing new. It is
  used where slope and intercept are absent or do nothing, and either Philips wrote it, with whom it is the scale, or it
  differs between slices, which are comparable only through it. Otherwise the values stay as they are, and a finding
  tells of the map. What dcm2niix does is the same but for the maps that differ.
"""

import math
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.header.values import Header, number, tag_of, value_at
from fedsite.dicom.model import Frame, Scale

_IDENTITY = (1.0, 0.0)
_PHILIPS = "PHILIPS"

_MAPS = tag_of("RealWorldValueMappingSequence")
_SLOPE = tag_of("RealWorldValueSlope")
_INTERCEPT = tag_of("RealWorldValueIntercept")

_PRIVATE_GROUP, _PRIVATE_CREATOR, _SCALE_SLOPE = 0x2005, "PHILIPS MR IMAGING DD 001", 0x0E
_BLOCKS = range(0x10, 0x20)
PRIVATE_TAGS = tuple(
    BaseTag(_PRIVATE_GROUP << 16 | low) for block in _BLOCKS for low in (block, block << 8 | _SCALE_SLOPE)
)


def attributes(dataset: Dataset) -> dict[str, Any]:
    """What a data set, or one item of its functional groups, says of scales in sequences and private attributes."""
    found: dict[str, Any] = {}
    held = dataset.keys()  # asking the data set itself would convert every tag
    if _MAPS in held:
        found["RealWorldValueMappingSequence"] = tuple(
            dict.fromkeys(_linear(item) for item in value_at(dataset, _MAPS) or ())
        )
    for creator, slope in zip(PRIVATE_TAGS[::2], PRIVATE_TAGS[1::2], strict=True):
        if slope in held and str(value_at(dataset, creator)).strip().upper() == _PRIVATE_CREATOR:
            found["ScaleSlope"] = value_at(dataset, slope)
    return found


def _linear(item: Dataset) -> Scale | None:
    """Slope and intercept of one map; None where it is a table."""
    slope, intercept = value_at(item, _SLOPE), value_at(item, _INTERCEPT)
    return None if slope is None or intercept is None else (float(slope), float(intercept))


def rescale(header: Header, modality: str) -> Scale | None:
    """Slope and intercept of a frame; for MR, where neither is required, half of the pair is taken at its word."""
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if modality == "MR" and (private := number(header, "ScaleSlope")) and math.isfinite(private):
        return 1 / private, (intercept or 0.0) / ((slope or 1.0) * private)
    if slope is not None and intercept is not None:
        return slope, intercept
    if modality == "CT" or (slope is None and intercept is None):
        return None
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def settle(frames: list[Frame]) -> tuple[list[Frame], list[Finding]]:
    """The frames of one volume with the scale that applies to them, and a finding where a map was passed over."""
    maps = {frame.real_world for frame in frames}
    linear = all(len(frame.real_world) == 1 and frame.real_world[0] for frame in frames)
    unscaled = all(frame.rescale in (None, _IDENTITY) and not frame.instance.has_modality_lut for frame in frames)
    is_philips = frames[0].instance.scanner.upper().startswith(_PHILIPS)
    if linear and unscaled and frames[0].instance.modality == "MR" and (is_philips or len(maps) > 1):
        return [replace(frame, rescale=frame.real_world[0]) for frame in frames], []
    if any(frame.real_world not in ((), (frame.rescale or _IDENTITY,)) for frame in frames):
        return frames, [finding("real-world-values-unused")]
    return frames, []
