"""How good a segmentation is."""

import numpy as np
from numpy.typing import NDArray


def dice(prediction: NDArray[np.integer], label: NDArray[np.integer]) -> float:
    """Dice's overlap 2|A and B| / (|A| + |B|) of the voxels that are not background; 1 when both are empty.

    Dice 1945, Ecology 26:297. Both arrays have one shape. Raises ValueError when they have not.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"a prediction of shape {prediction.shape} for a label of shape {label.shape}")
    found, true = prediction != 0, label != 0
    total = np.count_nonzero(found) + np.count_nonzero(true)
    return 2 * np.count_nonzero(found & true) / total if total else 1.0
