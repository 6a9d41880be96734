"""Reading header values tolerantly: what is absent, empty or malformed is None, never an exception.

A header is flattened into a plain mapping from attribute keyword to value. For enhanced multi-frame objects the
functional groups (PS3.3 C.7.6.16) are folded in, so that a frame of theirs looks like a classic image.
"""

import logging
import math
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from types import NoneType
from typing import Any, TypeGuard

import pydicom.config
from pydicom.datadict import dictionary_keyword, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

Header = Mapping[str, Any]
Value = Any
"""What pydicom gives as an element's value: it types none of them."""

# The longest value of a long string (LO, PS3.5 section 6.2).
LONGEST_SHOWN = 64

# What pydicom raises when a value does not follow its representation.
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    struct.error,
    BytesLengthException,
)

# Functional groups whose attributes describe a frame; the others hold references that would hide the object's own.
_GROUPS = frozenset(
    {
        "CTImageFrameTypeSequence",
        "DiffusionGradientDirectionSequence",
        "FrameContentSequence",
        "MRDiffusionSequence",
        "MREchoSequence",
        "MRImageFrameTypeSequence",
        "MRModifierSequence",
        "MRTimingAndRelatedParametersSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
        "PlaneOrientationSequence",
        "PlanePositionSequence",
        "TemporalPositionSequence",
        "UnassignedPerFrameConvertedAttributesSequence",
        "UnassignedSharedConvertedAttributesSequence",
    }
)


@contextmanager
def tolerant_reading() -> Iterator[None]:
    """Values that break the standard are judged by our own rules: pydicom neither warns nor validates meanwhile.

    Nor do it and highdicom log, for they would repeat values and paths. The switches belong to the process, so this
    is entered once around a scan or a read, never inside a thread.
    """
    levels = {logger: logger.level for logger in map(logging.getLogger, ("pydicom", "highdicom"))}
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


def tag_of(keyword: str) -> BaseTag:
    """The tag of a standard attribute."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return BaseTag(tag)


def value_at(dataset: Dataset, tag: BaseTag) -> Value:
    """The value of one element, or None."""
    if tag not in dataset.keys():  # noqa: SIM118 - `in dataset` would convert every tag that is asked for
        return None
    try:
        return dataset[tag].value
    except _MALFORMED:
        return None


@lru_cache(maxsize=4096)
def _described(tag: int) -> tuple[str, str]:
    """Keyword and value representation of a standard attribute; both "" for others."""
    try:
        return dictionary_keyword(tag), dictionary_VR(tag)
    except KeyError:
        return "", ""


def flatten(dataset: Dataset) -> dict[str, Any]:
    """The values of a dataset by keyword, without sequences, private, empty and malformed ones.

    A malformed number is NaN: what is there but cannot be read must not be taken for absent.
    """
    header: dict[str, Any] = {}
    for tag, element in list(dataset.items()):
        keyword, representation = _described(tag)
        if keyword and representation != "SQ":
            value = None
            if representation == element.VR or _reads_alike(element.VR, representation):
                value = _plain_value(element, representation)
                if value is None:
                    value = value_at(dataset, tag)
            if value is None and representation in _NUMBERS and _holds_something(element):
                value = math.nan
            if value is not None and value != "":
                header[keyword] = value
    return header


def _reads_alike(stored: str | None, representation: str) -> bool:
    """Whether a value is the same under the representation that the file states as under that of the dictionary.

    Digits stated to be a float would be a number, and another one. None is of implicit files; UN says nothing.
    """
    if stored is None or stored == "UN":
        return True
    return stored in representation or (stored in _TEXT and representation in _TEXT)


def _holds_something(element: DataElement | RawDataElement) -> bool:
    value = element.value
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _plain_value(element: DataElement | RawDataElement, representation: str) -> Value:
    """What pydicom would make of a value in its plainest form, several times faster; None where it is not plain.

    Numbers in text stay text, checked: whoever wants the number converts it.
    """
    if not isinstance(element, RawDataElement) or not element.value:
        return None
    convert = _PLAIN.get(element.VR or representation)
    return convert(element.value, element.is_little_endian) if convert else None


def _characters(value: bytes, _little: bool) -> str | list[str] | None:
    """Printable ASCII, which reads the same in every character set that the standard knows."""
    if not value.isascii():
        return None
    characters = value.decode("ascii").rstrip(" \0")
    # Whether a blank before a backslash counts depends on the representation: pydicom knows.
    return _parts(characters) if characters.isprintable() and " \\" not in characters else None


def _numerals(value: bytes, _little: bool, pattern: re.Pattern[bytes]) -> str | list[str] | None:
    return _parts(value.decode("ascii").rstrip(" \0")) if pattern.fullmatch(value) else None


def _parts(characters: str) -> str | list[str]:
    return characters.split("\\") if "\\" in characters else characters


def _binary(value: bytes, little: bool, kind: str) -> Value:
    count, rest = divmod(len(value), struct.calcsize(f"={kind}"))
    if rest:
        return None
    found = struct.unpack(f"{'<' if little else '>'}{count}{kind}", value)
    return found[0] if count == 1 else list(found)


_TEXT = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
_SINGLE = frozenset({NoneType, str, float, int})
_STRUCTURES = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "UL": "I", "US": "H"}
_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "US"})
_DECIMAL = rb" *[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)? *"
_DECIMALS = re.compile(_DECIMAL + rb"(?:\\" + _DECIMAL + rb")*\0?")
_INTEGERS = re.compile(rb" *[-+]?\d+ *(?:\\ *[-+]?\d+ *)*\0?")

_PLAIN: dict[str, Callable[[bytes, bool], Any]] = {
    **dict.fromkeys(("AS", "CS", "DA", "DT", "LO", "SH", "TM", "UI"), _characters),
    "DS": partial(_numerals, pattern=_DECIMALS),
    "IS": partial(_numerals, pattern=_INTEGERS),
    **{name: partial(_binary, kind=kind) for name, kind in _STRUCTURES.items()},
}


def flatten_groups(item: Dataset) -> dict[str, Any]:
    """The values in the functional groups of one item, by keyword."""
    header: dict[str, Any] = {}
    for tag in item.keys():  # noqa: SIM118 - iterating the data set would convert its elements
        if _described(tag)[0] in _GROUPS:
            for nested in (value_at(item, tag) or [])[:1]:
                header |= flatten(nested)
                header |= flatten_groups(nested)
    return header


def _is_several(value: object) -> TypeGuard[list[Any] | MultiValue[Any]]:
    # Nearly all values are plain ones; to ask whether something is pydicom's list takes long.
    return type(value) not in _SINGLE and isinstance(value, list | MultiValue)


def text(header: Header, keyword: str) -> str:
    """A text value without surrounding blanks; "" when absent."""
    value = header.get(keyword)
    if _is_several(value):
        return "\\".join(str(part) for part in value).strip()
    return "" if value is None else str(value).strip()


def shown(value: str) -> str:
    """A text of the header as it may be shown, "" where it is damaged.

    A length that lies takes the elements behind a value, the patient's name among them, into it; their tags are no
    printable characters.
    """
    return value if value.isprintable() and len(value) <= LONGEST_SHOWN else ""


def words(header: Header, keyword: str) -> tuple[str, ...]:
    """The values of a code string in upper case; "" for damaged ones."""
    value = header.get(keyword)
    parts: Iterable[object] = value if _is_several(value) else [value] if value else []
    return tuple(shown(str(part).strip(" \0")).upper() for part in parts)


def number(header: Header, keyword: str) -> float | None:
    """A number (the first of several); NaN where something is there that is none.

    A zero has no sign: -0.0 would be another byte of what is made of it.
    """
    value = header.get(keyword)
    if _is_several(value):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        return float(value) + 0.0
    except _MALFORMED:
        return math.nan


def numbers(header: Header, keyword: str, count: int) -> tuple[float, ...] | None:
    """A vector of exactly `count` numbers."""
    value = header.get(keyword)
    if not isinstance(value, MultiValue | list | tuple) or len(value) != count:
        return None
    try:
        return tuple(float(part) + 0.0 for part in value)
    except _MALFORMED:
        return None


def whole(header: Header, keyword: str) -> int | None:
    """A whole number."""
    value = number(header, keyword)
    return int(value) if value is not None and value.is_integer() else None
