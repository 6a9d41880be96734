"""b-value and direction of diffusion images: the standard's attributes first, then where the vendors keep them.

Standard: MR Diffusion macro, PS3.3 C.8.13.5.9. Private attributes as in PS3.15 table E.3.10-1 (safe private
attributes) and the vendors' conformance statements: Siemens "SIEMENS MR HEADER" (0019,xx0C..0E), GE "GEMS_PARM_01"
(0043,xx39) and "GEMS_ACQU_01" (0019,xxBB..BD), Philips "Philips Imaging DD 001" (2001,xx03..04) and
"Philips MR Imaging DD 005" (2005,xxB0..B2).
"""

import math
import struct
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from fedsite.dicom.model import Vector
from fedsite.dicom.values import Header, number, numbers, text, value_at

# GE adds 10^9 to the b-value to say that it stems from the gradient table.
GE_OFFSET = 1_000_000_000

_SIEMENS = (0x0019, "SIEMENS MR HEADER", "SIEMENS")
_GE_PARAMETERS = (0x0043, "GEMS_PARM_01", "GE")
_GE_ACQUISITION = (0x0019, "GEMS_ACQU_01", "GE")
_PHILIPS = (0x2001, "Philips Imaging DD 001", "PHILIPS")
_PHILIPS_MR = (0x2005, "Philips MR Imaging DD 005", "PHILIPS")

_OFFSETS = {
    0x0019: (0x0C, 0x0D, 0x0E, 0xBB, 0xBC, 0xBD),
    0x0043: (0x39,),
    0x2001: (0x03, 0x04),
    0x2005: (0xB0, 0xB1, 0xB2),
}
_BLOCKS = range(0x10, 0x14)

# What a scan has to read besides the standard's attributes: the creators and the elements of their blocks.
PRIVATE_TAGS = tuple(
    BaseTag(group << 16 | low)
    for group, offsets in _OFFSETS.items()
    for block in _BLOCKS
    for low in (block, *(block << 8 | offset for offset in offsets))
)

_TRACE_WORDS = {"TRACEW", "TRACE", "ISOTROPIC", "ISO"}
_TERMS = {"NONE", "DIRECTIONAL", "ISOTROPIC", "BMATRIX"}


def vendor_attributes(dataset: Dataset) -> dict[str, Any]:
    """What the vendor's private attributes say, under the keywords of the standard's attributes for it."""
    attributes: dict[str, Any] = {}
    b_value = _private_b_value(dataset)
    if b_value is not None:
        attributes["DiffusionBValue"] = b_value
    if direction := _private_direction(dataset):
        attributes["DiffusionGradientOrientation"] = direction
    if term := _word(_private(dataset, _SIEMENS, 0x0D)):
        attributes["DiffusionDirectionality"] = term
    elif b_value and _word(_private(dataset, _PHILIPS, 0x04)) == "I":
        attributes["DiffusionDirectionality"] = "ISOTROPIC"
    return attributes


def diffusion(header: Header, image_type: tuple[str, ...]) -> tuple[float | None, str | None, Vector | None]:
    """b-value in s/mm2, directionality in the terms of (0018,9075), and the gradient's direction; None = not said.

    A direction is only given for directional images: those of a trace or of b = 0 mean nothing.
    """
    b_value = number(header, "DiffusionBValue")
    if b_value is not None and not 0 <= b_value < GE_OFFSET:
        b_value = None
    vector = numbers(header, "DiffusionGradientOrientation", 3)
    has_direction = vector is not None and all(map(math.isfinite, vector)) and any(vector)
    directionality = text(header, "DiffusionDirectionality")
    if directionality not in _TERMS:
        directionality = _inferred(image_type, b_value, has_direction)
    if directionality != "DIRECTIONAL" or vector is None or not has_direction:
        return b_value, directionality or None, None
    return b_value, directionality, (vector[0], vector[1], vector[2])


def _inferred(image_type: tuple[str, ...], b_value: float | None, has_direction: bool) -> str:
    """The directionality of an image that does not state it; "" when nothing tells."""
    if b_value == 0:
        return "NONE"
    if _TRACE_WORDS.intersection(image_type):
        return "ISOTROPIC"
    return "DIRECTIONAL" if has_direction else ""


def _private_b_value(dataset: Dataset) -> float | None:
    for private, offset in ((_SIEMENS, 0x0C), (_PHILIPS, 0x03), (_GE_PARAMETERS, 0x39)):
        values = _numbers(_private(dataset, private, offset))
        if values:
            return values[0] % GE_OFFSET if private is _GE_PARAMETERS else values[0]
    return None


def _private_direction(dataset: Dataset) -> tuple[float, ...]:
    vector = _numbers(_private(dataset, _SIEMENS, 0x0E))
    for private, offsets in ((_PHILIPS_MR, (0xB0, 0xB1, 0xB2)), (_GE_ACQUISITION, (0xBB, 0xBC, 0xBD))):
        if not vector:
            parts = [_numbers(_private(dataset, private, offset)) for offset in offsets]
            vector = tuple(part[0] for part in parts if part)
    return vector


def _private(dataset: Dataset, private: tuple[int, str, str], offset: int) -> Any:  # noqa: ANN401 - as pydicom has it
    """The value of a private attribute: of its creator's block, or of the usual block when the creator was stripped."""
    group, creator, vendor = private
    for block, name in _creators(dataset, group):
        stripped = not name and str(dataset.get("Manufacturer", "")).upper().startswith(vendor)
        if name == creator.upper() or stripped:
            found = value_at(dataset, BaseTag(group << 16 | block << 8 | offset))
            if found is not None:
                return found
    return None


def _creators(dataset: Dataset, group: int) -> Iterator[tuple[int, str]]:
    for block in _BLOCKS:
        yield block, str(value_at(dataset, BaseTag(group << 16 | block)) or "").strip().upper()


def _word(value: object) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")).strip().upper()


def _numbers(value: Any) -> tuple[float, ...]:  # noqa: ANN401 - as pydicom has it
    """The numbers of a private value, which is bytes when neither the file nor pydicom knows its representation."""
    if isinstance(value, bytes):
        return _numbers_of_bytes(value)
    parts = value if isinstance(value, MultiValue | list) else [value]
    try:
        return tuple(float(part) for part in parts if part is not None and part != "")
    except (TypeError, ValueError):
        return ()


def _numbers_of_bytes(value: bytes) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in value.decode("ascii").strip(" \0").split("\\"))
    except ValueError:
        pass
    kind = "f" if len(value) in (4, 12) else "d" if len(value) in (8, 24) else ""
    return struct.unpack(f"<{len(value) // struct.calcsize(kind)}{kind}", value) if kind else ()
