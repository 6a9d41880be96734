"""What must hold of an image and its mask before they become a case: one typed finding for each rule."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from fedsite.dataset.manifest import InputState
from fedsite.dataset.rules import finding
from fedsite.dicom import checks as gate
from fedsite.dicom.checks import Finding
from fedsite.dicom.labels.marking import ROUNDING_MM
from fedsite.dicom.labels.marking import SNAP_MM as SNAP_MM

WHOLE = 1e-3
FRAME_ZERO = 0.99
SPRINKLED = 0.25
RIM_BRIGHT = 0.15
RIM_DOUBTFUL = (0.1, 0.22)
_SHOWN_VALUES = 5

Affine = NDArray[np.float64]


@dataclass(frozen=True)
class PlacedMask:
    """A mask brought to the image's axis order; `findings` with an error mean that it does not fit."""

    values: NDArray[Any]
    findings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity == "warning" for finding in self.findings)


def check_image(image: NDArray[np.float32], where: str) -> list[Finding]:
    """Rules for the values of one channel."""
    lowest, highest = image.min(), image.max()  # either is no number where a voxel is none
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        return [finding("image-not-finite", where)]
    return [finding("image-constant", where)] if lowest == highest else []


def place_mask(
    mask: NDArray[Any], mask_affine: Affine, shape: tuple[int, ...], affine: Affine, where: str
) -> PlacedMask:
    """Brings a mask to the axis order of the image and compares the two grids.

    Axes that are merely swapped or flipped in the file are no difference. The distance is that of the farthest of
    the eight corners, in mm: above 0.1 the mask was drawn on another grid and is refused; below, it is rounding in
    the headers, and the mask is taken to lie on the image's grid exactly (with a warning above 0.001).
    """
    placed, placed_affine = _turned(mask, mask_affine, affine)
    if placed.shape != shape:
        reason = f"{_sizes(placed.shape)} voxels instead of {_sizes(shape)}"
        return PlacedMask(placed, (gate.finding("label-other-grid", where, reason=reason),))
    distance = corner_distance(placed_affine, affine, shape)
    if not distance <= SNAP_MM:
        reason = f"its farthest corner lies {distance:.2f} mm off"
        return PlacedMask(placed, (gate.finding("label-other-grid", where, reason=reason),))
    if distance > ROUNDING_MM:
        return PlacedMask(placed, (gate.finding("label-grid-rounded", where, distance=distance),))
    return PlacedMask(placed, ())


def corner_distance(one: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    """How far (mm) the farthest of a grid's eight corner voxels moves between two affines."""
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*[(0, side - 1) for side in shape])])
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())


def check_label(mask: NDArray[Any], allowed: Collection[int], where: str) -> list[Finding]:
    """Rules for the values of a mask: finite, none that the task does not name, some that is not background."""
    known = ", ".join(str(value) for value in sorted(allowed))
    if not np.isfinite(mask).all():
        return [finding("label-not-finite", where, known=known)]
    values = mask.ravel(order="K")  # in the order of memory, or a CT takes a second
    marked = np.unique(values[values != 0])
    whole = np.rint(marked)
    # A slope in the file's header may leave a 1 as 0.99999994.
    values = np.where(np.abs(marked - whole) <= WHOLE, whole, marked)
    unknown = [float(value) for value in values if float(value) not in allowed]
    if unknown:
        return [_unknown_values(unknown, known, where)]
    return [] if values.any() else [finding("label-empty", where)]


def input_state(image: NDArray[np.float32], modality: str) -> tuple[InputState, bool]:
    """Whether an image still has its skull, by exact zeros; and whether that is doubtful.

    A tool that strips the skull writes exact zeros around the brain. An image is skull-stripped if

    - the side faces of its grid are exactly zero (99%): measured air is noise;
    - the rest is compact: at most a quarter of its voxels touch a zero in the slice. (Noise that a scanner cuts off
      at zero is sprinkled with zeros instead);
    - in MR, where it meets the zeros it is as bright as tissue: the median there is at least 0.15 of the inside's.
      (A scanner that blanks the air itself leaves a dark rim of air and scalp around a whole head.)

    Measured: ISLES'22 0.34 (DWI, FLAIR), MNI152 T1 0.61, whole heads below 0.11 or with noise in their air.
    """
    zero = image == 0
    faces = [zero[0], zero[-1], zero[:, 0], zero[:, -1]]
    if np.concatenate([face.ravel() for face in faces]).mean() < FRAME_ZERO or zero.all():
        return "whole-head", False
    outside = np.pad(zero, ((1, 1), (1, 1), (0, 0)), constant_values=True)
    touching = outside[2:, 1:-1] | outside[:-2, 1:-1] | outside[1:-1, 2:] | outside[1:-1, :-2]
    rim, inside = ~zero & touching, ~zero & ~touching
    if rim.sum() > SPRINKLED * (~zero).sum() or not inside.any():
        return "whole-head", False
    if modality != "MR":
        return "skull-stripped", False
    brightness = float(np.median(np.abs(image[rim])) / max(float(np.median(np.abs(image[inside]))), 1e-12))
    doubtful = RIM_DOUBTFUL[0] <= brightness <= RIM_DOUBTFUL[1]
    return ("skull-stripped" if brightness >= RIM_BRIGHT else "whole-head"), doubtful


def _turned(mask: NDArray[Any], mask_affine: Affine, affine: Affine) -> tuple[NDArray[Any], Affine]:
    """The mask with its axes in the order and direction of the image's; as it is where that cannot be told."""
    if mask.ndim != 3 or not np.isfinite(mask_affine).all():
        return mask, mask_affine
    turn = io_orientation(np.linalg.inv(affine) @ mask_affine)
    if np.isnan(turn).any():
        return mask, mask_affine
    return apply_orientation(mask, turn), mask_affine @ inv_ornt_aff(turn, mask.shape)


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def _unknown_values(unknown: list[float], known: str, where: str) -> Finding:
    if unknown == [255.0]:
        return finding("label-stored-as-255", where)
    shown = ", ".join(f"{value:g}" for value in unknown[:_SHOWN_VALUES])
    more = f" and {len(unknown) - _SHOWN_VALUES} more" if len(unknown) > _SHOWN_VALUES else ""
    return finding("label-values-unknown", where, values=shown + more, known=known)
