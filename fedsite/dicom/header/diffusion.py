"""b-value and direction of diffusion images: the standard's attributes first, then where the vendors keep them.

Standard: MR Diffusion macro, PS3.3 C.8.13.5.9. Private attributes as in PS3.15 table E.3.10-1 (safe private
attributes) and the vendors' conformance statements, found by their creator in whatever block it reserved (PS3.5
section 7.8.1). Where the vendor wrote neither, the name that the sequence or the image itself carries is read.
"""

import math
import re
import struct
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from fedsite.dicom.header import csa
from fedsite.dicom.header.values import Header, Value, number, numbers, text, value_at
from fedsite.dicom.model import Vector

# GE adds 10^9 to the b-value to say that it stems from the gradient table.
GE_OFFSET = 1_000_000_000

_SIEMENS = "SIEMENS MR HEADER"
_SIEMENS_CSA = "SIEMENS CSA HEADER"
_GE_PARAMETERS = "GEMS_PARM_01"
_GE_ACQUISITION = "GEMS_ACQU_01"
_PHILIPS = "PHILIPS IMAGING DD 001"
_PHILIPS_MR = "PHILIPS MR IMAGING DD 001"
_PHILIPS_MR_LATER = "PHILIPS MR IMAGING DD 005"
_UNITED_IMAGING = "IMAGE PRIVATE HEADER"

# Of each creator: its group, the start of Manufacturer where the creator itself was stripped, the attributes read.
_CREATORS = {
    _SIEMENS: (0x0019, "SIEMENS", (0x0C, 0x0D, 0x0E)),
    _SIEMENS_CSA: (0x0029, "SIEMENS", (0x10,)),
    _GE_PARAMETERS: (0x0043, "GE", (0x30, 0x39)),
    _GE_ACQUISITION: (0x0019, "GE", (0xBB, 0xBC, 0xBD)),
    _PHILIPS: (0x2001, "PHILIPS", (0x03, 0x04)),
    _PHILIPS_MR: (0x2005, "PHILIPS", (0xB0, 0xB1, 0xB2)),
    _PHILIPS_MR_LATER: (0x2005, "PHILIPS", (0xB0, 0xB1, 0xB2)),
    _UNITED_IMAGING: (0x0065, "UIH", (0x09, 0x37)),
}
_GROUPS = frozenset(group for group, _, _ in _CREATORS.values())

# What a scan has to read: the creators, and their attributes in the blocks that they may have reserved.
_BLOCKS = range(0x10, 0x100)
PRIVATE_TAGS = tuple(
    BaseTag(tag)
    for tag in sorted(
        {
            group << 16 | low
            for group, _, offsets in _CREATORS.values()
            for block in _BLOCKS
            for low in (block, *(block << 8 | offset for offset in offsets))
        }
    )
)

TRACE_WORDS = frozenset({"TRACEW", "TRACE", "ISOTROPIC", "ISO"})
_TERMS = {"NONE", "DIRECTIONAL", "ISOTROPIC", "BMATRIX"}

# GE's (0043,xx30) in diffusion images: T2 (b = 0), combined, or the axis along which the gradient lay; the last four
# are the corners of a tetrahedron.
_GE_COMBINED = 15
_GE_AXES: dict[float, Vector] = {
    3: (1, 0, 0),
    4: (0, 1, 0),
    5: (0, 0, 1),
    43: (0.57735, 0.57735, 0.57735),
    44: (-0.57735, -0.57735, 0.57735),
    45: (-0.57735, 0.57735, -0.57735),
    46: (0.57735, -0.57735, -0.57735),
}
# Philips' (2001,xx04): along measurement, phase encoding or slice; the three axes of the image, if not of the patient.
_PHILIPS_AXES: dict[str, Vector] = {"M": (1, 0, 0), "P": (0, 1, 0), "S": (0, 0, 1)}

# Siemens names a sequence after the volume: *ep_b1000t is a trace, *ep_b1000#3 the third direction.
_SIEMENS_SEQUENCE = re.compile(r"\*?ep_b(\d{1,5})(t|#\d+)?", re.ASCII)
# Canon writes b-value and direction into the image comments, and nothing for b = 0.
_CANON_COMMENT = re.compile(r"b=(\d{1,5})(?:\(([-\d.]+),([-\d.]+),([-\d.]+)\))?", re.ASCII)


def vendor_attributes(dataset: Dataset) -> dict[str, Any]:
    """What the vendor's private attributes say, under the keywords of the standard's attributes for it."""
    private = _private(dataset)
    if not private:
        return {}
    _add_csa(private)
    b_value = _private_b_value(private)
    known: dict[str, Any] = {
        "DiffusionBValue": b_value,
        "DiffusionGradientOrientation": _private_direction(private) or (_axis(private) if b_value else None) or None,
        "DiffusionDirectionality": _private_directionality(private, b_value) or None,
    }
    return {keyword: value for keyword, value in known.items() if value is not None}


def named_attributes(header: Header) -> dict[str, Any]:
    """What the sequence's name (Siemens) or the image's comment (Canon) says, under the standard's keywords."""
    named: dict[str, Any]
    if sequence := _SIEMENS_SEQUENCE.fullmatch(text(header, "SequenceName")):
        kind = {"t": "ISOTROPIC", "#": "DIRECTIONAL"}.get((sequence[2] or "")[:1])
        named = {"DiffusionBValue": float(sequence[1]), "DiffusionDirectionality": kind}
    elif comment := _CANON_COMMENT.match(text(header, "ImageComments")):
        direction = _numbers(list(comment.groups()[1:]))
        named = {"DiffusionBValue": float(comment[1]), "DiffusionGradientOrientation": direction or None}
    else:
        return {}
    return {keyword: value for keyword, value in named.items() if value is not None}


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
    if b_value == 0:
        directionality = "NONE"
    elif TRACE_WORDS.intersection(image_type):
        directionality = "ISOTROPIC"
    elif directionality not in _TERMS:
        directionality = "DIRECTIONAL" if has_direction else ""
    if directionality != "DIRECTIONAL" or vector is None or not has_direction:
        return b_value, directionality or None, None
    return b_value, directionality, (vector[0], vector[1], vector[2])


Private = dict[tuple[str, int], Value]


def _private(dataset: Dataset) -> Private:
    """The values of the private attributes above, by creator and offset; those of other creators are left out."""
    tags = [tag for tag in dataset.keys() if tag.group in _GROUPS]  # noqa: SIM118 - iterating the data set would convert its elements
    found: Private = {}
    for tag in tags:
        block, offset = tag.element >> 8, tag.element & 0xFF
        if block:
            creator = _creator(dataset, tag.group, block) or _usual_creator(dataset, tag.group, offset)
            if creator in _CREATORS and offset in _CREATORS[creator][2]:
                found.setdefault((creator, offset), value_at(dataset, tag))
    return found


def _creator(dataset: Dataset, group: int, block: int) -> str:
    return str(value_at(dataset, BaseTag(group << 16 | block)) or "").strip().upper()


def _usual_creator(dataset: Dataset, group: int, offset: int) -> str:
    """Whose attribute it is where the creator was stripped: the one whose vendor made the scanner."""
    vendor = str(dataset.get("Manufacturer", "")).upper()
    for creator, (own, start, offsets) in _CREATORS.items():
        if own == group and offset in offsets and vendor.startswith(start):
            return creator
    return ""


def _add_csa(private: Private) -> None:
    """Puts what the CSA header says in the place of the plain attributes, where these are not there."""
    header = private.pop((_SIEMENS_CSA, 0x10), None)
    if isinstance(header, bytes) and (_SIEMENS, 0x0C) not in private:
        names = {"B_value": 0x0C, "DiffusionDirectionality": 0x0D, "DiffusionGradientDirection": 0x0E}
        for name, items in csa.values(header, names).items():
            private.setdefault((_SIEMENS, names[name]), items[0] if len(items) == 1 else list(items))


def _private_b_value(private: Private) -> float | None:
    for key in ((_SIEMENS, 0x0C), (_PHILIPS, 0x03), (_GE_PARAMETERS, 0x39), (_UNITED_IMAGING, 0x09)):
        values = _numbers(private.get(key))
        if values:
            return values[0] % GE_OFFSET if key[0] == _GE_PARAMETERS else values[0]
    return None


def _private_direction(private: Private) -> tuple[float, ...]:
    for key in ((_SIEMENS, 0x0E), (_UNITED_IMAGING, 0x37)):
        if any(vector := _numbers(private.get(key))):
            return vector
    for creator in (_PHILIPS_MR, _PHILIPS_MR_LATER, _GE_ACQUISITION):
        parts = [_numbers(private.get((creator, offset))) for offset in _CREATORS[creator][2]]
        if any(vector := tuple(part[0] for part in parts if part)):
            return vector
    return ()


def _axis(private: Private) -> Vector | None:
    """The gradient's axis where the vendor names it and gives no vector."""
    if kind := _numbers(private.get((_GE_PARAMETERS, 0x30))):
        return _GE_AXES.get(kind[0])
    return _PHILIPS_AXES.get(_word(private.get((_PHILIPS, 0x04))))


def _private_directionality(private: Private, b_value: float | None) -> str:
    if term := _word(private.get((_SIEMENS, 0x0D))):
        return term
    kind = _numbers(private.get((_GE_PARAMETERS, 0x30)))
    is_trace = _word(private.get((_PHILIPS, 0x04))) == "I" or (kind and kind[0] == _GE_COMBINED)
    return "ISOTROPIC" if b_value and is_trace else ""


def _word(value: object) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")).strip(" \0").upper()


def _numbers(value: Value) -> tuple[float, ...]:
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
    kind = {2: "h", 4: "f", 12: "f", 8: "d", 24: "d"}.get(len(value), "")
    return struct.unpack(f"<{len(value) // struct.calcsize(kind)}{kind}", value) if kind else ()
