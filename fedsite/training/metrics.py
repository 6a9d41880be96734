"""How good a segmentation of one case is: overlap, distance of borders, volume, and lesions one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Labels = NDArray[np.integer]
Bits = NDArray[np.bool_]
Spacing = tuple[float, float, float]

PERCENTILE = 95
# Lesions that touch by a corner are one (26 neighbours); a border is where one of the 6 neighbours is another.
_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Lesion:
    """One connected part of what is drawn: its volume, and whether the segmentation shares a voxel with it."""

    ml: float
    found: bool


@dataclass(frozen=True)
class Measures:
    """How well one structure of one case was segmented.

    `hd95_mm` is None where it is not defined: where there is nothing drawn, or nothing found. `false_lesions` are the
    connected parts of the segmentation that share no voxel with what is drawn.
    """

    dice: float
    hd95_mm: float | None
    drawn_ml: float
    segmented_ml: float
    lesions: tuple[Lesion, ...]
    false_lesions: int

    @property
    def volume_difference_ml(self) -> float:
        """What was segmented less what is drawn."""
        return self.segmented_ml - self.drawn_ml

    @property
    def found_lesions(self) -> int:
        """How many lesions that are drawn were found."""
        return sum(lesion.found for lesion in self.lesions)

    @property
    def recall(self) -> float | None:
        """The share of lesions that were found; None where there are none but false ones."""
        return _share(self.found_lesions, len(self.lesions), self.false_lesions)

    @property
    def precision(self) -> float | None:
        """The share of true ones among the lesions that were named; None where lesions were missed and none named."""
        return _share(self.found_lesions, self.found_lesions + self.false_lesions, len(self.lesions))

    @property
    def f1(self) -> float:
        """Lesion-wise F1, 2 TP / (2 TP + FP + FN); 1 where there is no lesion and none was named.

        TP and FN count lesions that are drawn, FP parts of the segmentation: the rule of ISLES'22 (Hernandez Petzsche
        et al. 2022, Scientific Data 9:762).
        """
        everything = self.found_lesions + len(self.lesions) + self.false_lesions
        return 2 * self.found_lesions / everything if everything else 1.0


CaseMeasures = dict[str, Measures]


def measure(
    prediction: Labels, label: Labels, spacing_mm: Spacing, structures: Mapping[str, Sequence[int]]
) -> CaseMeasures:
    """Compares label values [X, Y, Z] on a grid of `spacing_mm` with those that are drawn, structure by structure.

    `structures` names for each the label values that belong to it. Raises ValueError when the shapes differ.
    """
    _require_same_shape(prediction, label)
    box = _filled(prediction, label)
    prediction, label = prediction[box], label[box]
    return {
        name: _measure(np.isin(prediction, values), np.isin(label, values), spacing_mm)
        for name, values in structures.items()
    }


def dice(prediction: Labels | Bits, label: Labels | Bits) -> float:
    """Dice's overlap 2|A and B| / (|A| + |B|) of the voxels that are not background; 1 when both are empty.

    Dice 1945, Ecology 26:297. Both arrays have one shape. Raises ValueError when they have not.
    """
    _require_same_shape(prediction, label)
    found, true = prediction != 0, label != 0
    total = int(np.count_nonzero(found) + np.count_nonzero(true))
    return 2 * int(np.count_nonzero(found & true)) / total if total else 1.0


def hausdorff_95(found: Bits, true: Bits, spacing_mm: Spacing) -> float | None:
    """The 95th percentile of the distances (mm) from the border of either to that of the other, the larger of the two.

    Huttenlocher et al. 1993, IEEE Trans. PAMI 15:850. None where one of them is empty: then there is no distance.
    """
    borders = [np.argwhere(_border(bits)) * spacing_mm for bits in (found, true)]
    if not all(len(border) for border in borders):
        return None
    first, second = borders
    distances = (KDTree(second).query(first)[0], KDTree(first).query(second)[0])
    return float(max(np.percentile(one, PERCENTILE) for one in distances))


def count_lesions(marked: Bits) -> int:
    """How many parts of what is marked there are that do not touch each other, not even by a corner."""
    return int(ndimage.label(marked, _TOUCHING)[1])


def _measure(found: Bits, true: Bits, spacing_mm: Spacing) -> Measures:
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    parts, count = ndimage.label(true, _TOUCHING)
    sizes, shared = (np.bincount(parts[bits], minlength=count + 1)[1:] for bits in (true, true & found))
    named, names = ndimage.label(found, _TOUCHING)
    hits = np.unique(named[true & found])
    return Measures(
        dice=dice(found, true),
        hd95_mm=hausdorff_95(found, true, spacing_mm),
        drawn_ml=float(np.count_nonzero(true)) * voxel_ml,
        segmented_ml=float(np.count_nonzero(found)) * voxel_ml,
        lesions=tuple(
            Lesion(float(size) * voxel_ml, bool(overlap)) for size, overlap in zip(sizes, shared, strict=True)
        ),
        false_lesions=names - len(hits),
    )


def _border(bits: Bits) -> Bits:
    """The voxels with a neighbour, of six, that is not set; beyond the array none is."""
    inner: Bits = ndimage.binary_erosion(bits)
    return bits & ~inner


def _filled(*labels: Labels) -> tuple[slice, ...]:
    """The smallest box that holds all that is not background."""
    marked = labels[0] != 0
    for other in labels[1:]:
        marked |= other != 0
    box = []
    for axis in range(3):
        filled = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0))
    return tuple(box)


def _share(part: int, whole: int, others: int) -> float | None:
    if whole:
        return part / whole
    return None if others else 1.0


def _require_same_shape(prediction: Labels | Bits, label: Labels | Bits) -> None:
    if prediction.shape != label.shape:
        raise ValueError(f"a prediction of shape {prediction.shape} for a label of shape {label.shape}")
