"""Reading header values tolerantly: what is absent, empty or malformed is None, never an exception.

A header is flattened into a plain mapping from attribute keyword to value. For enhanced multi-frame objects the
functional groups (PS3.3 C.7.6.16) are folded in, so that a frame of theirs looks like a classic image.
"""

import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pydicom.config
from pydicom.datadict import dictionary_keyword, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

Header = Mapping[str, Any]

# What pydicom raises when a value does not follow its representation.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError, struct.error)

# Functional groups whose attributes describe a frame; the others hold references that would hide the object's own.
_GROUPS = frozenset(
    {
        "CTImageFrameTypeSequence",
        "DiffusionGradientDirectionSequence",
        "FrameContentSequence",
        "MRDiffusionSequence",
        "MREchoSequence",
        "MRImageFrameTypeSequence",
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

    Both switches belong to the process, so this is entered once around a scan or a read, never inside a thread.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def value_at(dataset: Dataset, tag: BaseTag) -> Any:  # noqa: ANN401 - as pydicom has it
    """The value of one element, or None."""
    try:
        return dataset[tag].value
    except _MALFORMED:  # absent (a KeyError) or malformed
        return None


@lru_cache(maxsize=4096)
def _described(tag: int) -> tuple[str, str]:
    """Keyword and value representation of a standard attribute; both "" for others."""
    try:
        return dictionary_keyword(tag), dictionary_VR(tag)
    except KeyError:
        return "", ""


def flatten(dataset: Dataset) -> dict[str, Any]:
    """The values of a dataset by keyword, without sequences, private, empty and malformed ones."""
    header: dict[str, Any] = {}
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset converts its elements, which may raise
        keyword, representation = _described(tag)
        if keyword and representation != "SQ":
            value = value_at(dataset, tag)
            if value is not None and value != "":
                header[keyword] = value
    return header


def flatten_groups(item: Dataset) -> dict[str, Any]:
    """The values in the functional groups of one item, by keyword."""
    header: dict[str, Any] = {}
    for tag in item.keys():  # noqa: SIM118 - as above
        if _described(tag)[0] in _GROUPS:
            for nested in (value_at(item, tag) or [])[:1]:
                header |= flatten(nested)
                header |= flatten_groups(nested)
    return header


def text(header: Header, keyword: str) -> str:
    """A text value without surrounding blanks; "" when absent."""
    value = header.get(keyword)
    if isinstance(value, MultiValue):
        return "\\".join(str(part) for part in value).strip()
    return "" if value is None else str(value).strip()


def words(header: Header, keyword: str) -> tuple[str, ...]:
    """The values of a code string in upper case."""
    value = header.get(keyword)
    parts: Iterable[object] = value if isinstance(value, MultiValue) else [value] if value else []
    return tuple(str(part).strip().upper() for part in parts)


def number(header: Header, keyword: str) -> float | None:
    """A number (the first of several)."""
    value = header.get(keyword)
    if isinstance(value, MultiValue | list):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        return float(value)
    except _MALFORMED:
        return None


def numbers(header: Header, keyword: str, count: int) -> tuple[float, ...] | None:
    """A vector of exactly `count` numbers."""
    value = header.get(keyword)
    if not isinstance(value, MultiValue | list | tuple) or len(value) != count:
        return None
    try:
        return tuple(float(part) for part in value)
    except _MALFORMED:
        return None


def whole(header: Header, keyword: str) -> int | None:
    """A whole number."""
    value = number(header, keyword)
    return int(value) if value is not None and value.is_integer() else None
