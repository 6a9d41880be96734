"""The content of a case from its voxels alone: drawn and prepared on one grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset.cases import Content


def content_of(
    image: NDArray[Any], label: NDArray[np.uint8], inputs: Sequence[str] = (), spacing_mm: float = 3.0
) -> Content:
    """Image [C, X, Y, Z] and label [X, Y, Z] as they are; inputs without names are called after their place."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    names = tuple(inputs) or tuple(f"input{number}" for number in range(len(image)))
    return Content(image, label, affine, names, label, affine)
