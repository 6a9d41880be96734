"""The dimensions of a multi-frame object (PS3.3 C.7.6.17): which of a frame's index values says when it was taken.

Positions, b-values and echoes are stated in the functional groups themselves; a point in time often is by its index
alone.
"""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from fedsite.dicom.header.values import tag_of, value_at

_DIMENSIONS, _POINTER = tag_of("DimensionIndexSequence"), tag_of("DimensionIndexPointer")
# What tells frames of one place apart as points in time or phases of the heart.
_TIMES = frozenset(
    {tag_of("TemporalPositionIndex"), tag_of("TemporalPositionTimeOffset"), tag_of("NominalCardiacTriggerDelayTime")}
)


def time_dimension(dataset: Dataset) -> int | None:
    """The place of time among the dimensions of an object; None where it is none."""
    items = value_at(dataset, _DIMENSIONS)
    pointers = [value_at(item, _POINTER) for item in items] if isinstance(items, Sequence) else []
    return next((place for place, pointer in enumerate(pointers) if pointer in _TIMES), None)


def timed(values: dict[str, Any], dimension: int | None) -> dict[str, Any]:
    """The values of a frame, with its index in time as TemporalPositionIndex where that is not stated itself."""
    indices = values.get("DimensionIndexValues")
    if dimension is None or not isinstance(indices, MultiValue | list) or dimension >= len(indices):
        return values
    return {"TemporalPositionIndex": indices[dimension]} | values
