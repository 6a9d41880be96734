"""Where the slices of a volume lie: order, affine, and whether they make an even, straight stack.

Everything is measured from ImagePositionPatient and ImageOrientationPatient (PS3.3 C.7.6.2.1.1), never from tags
that repeat it (slice location, spacing between slices, gantry tilt). Input is in DICOM's patient coordinates (LPS,
mm), the affine in NIfTI's (RAS, mm).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsite.dicom.checks import Finding, finding

Array = NDArray[np.float64]

MIN_SLICES = 3
STEP_TOLERANCE = 0.02  # of the step,
STEP_SLACK_MM = 0.01  # and what rounding of positions adds to it
DRIFT_TOLERANCE = 0.1  # of the step: how far small irregularities may add up
DUPLICATE_MM = 0.01  # closer slices lie at the same position
MAX_TILT_DEGREES = 0.5
ORTHONORMAL_TOLERANCE = 2e-3
ORIENTATION_TOLERANCE = 5e-4  # in a direction's component: 0.1 mm at 200 mm
SPACING_TOLERANCE = 1e-4  # of the spacing: a twentieth of a voxel over 512 of them

ROUNDED_MM = 0.1  # the coarsest rounding of positions that is recognised
MIN_ROUNDED_STEP_MM = 0.5  # finer steps drown in it
MOST_ROUNDED = 1000  # slices; more are not compared pair by pair

# A head needs voxels between these; others are in another unit, or made up.
LEAST_VOXEL_MM, MOST_VOXEL_MM = 0.02, 30.0
LARGEST_MM = 1e5  # nothing in a scanner is further away,
SMALLEST_MM = 1e-3  # and no pixel is smaller

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Planes:
    """The image planes of one volume: n positions [n, 3], orientations [n, 6], spacings [n, 2], sizes [n, 2].

    Orientations hold the direction of a row, then that of a column; spacings the distance between rows, then that
    between columns; sizes rows, then columns.
    """

    positions: Array
    orientations: Array
    spacings: Array
    sizes: NDArray[np.int64]

    @property
    def normal(self) -> Array:
        """The unit normal of the first slice: row direction x column direction."""
        normal = np.cross(self.orientations[0, :3], self.orientations[0, 3:])
        return normal / np.linalg.norm(normal)

    def take(self, order: NDArray[np.intp]) -> "Planes":
        """Some of the planes, in the given order."""
        return Planes(self.positions[order], self.orientations[order], self.spacings[order], self.sizes[order])

    def sorting(self) -> NDArray[np.intp]:
        """The order of the slices along the normal."""
        return np.argsort(self.positions @ self.normal, kind="stable")


def plane_findings(planes: Planes) -> list[Finding]:
    """What is wrong with single planes, or makes them unlike each other. Without these an order exists."""
    values = np.hstack([planes.positions, planes.orientations, planes.spacings])
    usable = (np.abs(values) < LARGEST_MM).all(axis=1) & (planes.spacings > SMALLEST_MM).all(
        axis=1
    )  # NaN compares as False
    if not usable.all():
        return [finding("geometry-not-finite", count=int((~usable).sum()))]
    skew = _skew(planes.orientations) > ORTHONORMAL_TOLERANCE
    if skew.any():
        return [finding("orientation-not-orthonormal", count=int(skew.sum()))]
    found = []
    if orientations := _different(planes.orientations, ORIENTATION_TOLERANCE):
        found.append(finding("mixed-orientation", count=orientations))
    if len(np.unique(planes.sizes, axis=0)) > 1:
        found.append(finding("mixed-size"))
    if _different(planes.spacings / planes.spacings[0], SPACING_TOLERANCE):
        found.append(finding("mixed-spacing"))
    return found


def count_positions(planes: Planes) -> int:
    """How many different places along the normal the slices take."""
    places = np.sort(planes.positions @ planes.normal)
    return 1 + int((np.diff(places) > DUPLICATE_MM).sum())


def stack_findings(planes: Planes) -> list[Finding]:
    """What is wrong with the stack of the planes (sorted, without duplicates)."""
    count = len(planes.positions)
    if count < MIN_SLICES:
        return [finding("too-few-slices", count=count, least=MIN_SLICES)]
    sizes = (*planes.spacings[0, ::-1], float(np.median(np.diff(planes.positions @ planes.normal))))
    if not LEAST_VOXEL_MM <= min(sizes) <= max(sizes) <= MOST_VOXEL_MM:
        return [finding("implausible-spacing", size=" x ".join(f"{size:g}" for size in sizes))]
    return [*_step_findings(planes.positions @ planes.normal), *_straightness_findings(planes)]


def unrounded(planes: Planes) -> Planes | None:
    """The planes on the even, straight line that rounded positions lie around; None when rounding explains nothing.

    Positions with one decimal stray by at most half of it, whatever the step; where one line has each of them so near,
    in order and without a gap, it is where the slices were. Steps that have one decimal themselves lose nothing by
    rounding: what is uneven there is so by itself.
    """
    exact = np.round(planes.positions / ROUNDED_MM) * ROUNDED_MM
    if len(exact) > MOST_ROUNDED or np.abs(planes.positions - exact).max() > 1e-3 * ROUNDED_MM:
        return None
    main = int(np.abs(planes.positions[-1] - planes.positions[0]).argmax())
    lines = []
    for axis, values in enumerate(planes.positions.T):
        least, most = _slopes(values, 0.501 * ROUNDED_MM)
        keeps_a_decimal = np.floor(most / ROUNDED_MM) >= np.ceil(least / ROUNDED_MM)
        if least > most or (axis == main and keeps_a_decimal):
            return None
        line = (least + most) / 2 * np.arange(len(values))
        lines.append(line + ((values - line).min() + (values - line).max()) / 2)
    positions = np.stack(lines, axis=1)
    if np.linalg.norm(positions[1] - positions[0]) < MIN_ROUNDED_STEP_MM:
        return None
    return Planes(positions, planes.orientations, planes.spacings, planes.sizes)


def steps(planes: Planes) -> Array:
    """The distances between neighbouring slices along the normal, in mm, for sorted planes."""
    return np.diff(planes.positions @ planes.normal)


def tilt_degrees(planes: Planes) -> float:
    """The angle between the normal of sorted planes and the line from the first to the last."""
    line = planes.positions[-1] - planes.positions[0]
    height = float(line @ planes.normal)
    return float(np.degrees(np.arctan2(np.linalg.norm(line - height * planes.normal), height)))


def affine(planes: Planes) -> Array:
    """The 4x4 matrix from (column, row, slice) indices to RAS coordinates in mm, for sorted planes.

    Its third column is the mean step between slices as their positions give it, so that a tilted stack has a
    sheared affine. NaN for a single slice, which has no step.
    """
    row, column = _unit(planes.orientations[0, :3]), _unit(planes.orientations[0, 3:])
    between_rows, between_columns = planes.spacings[0]
    last = len(planes.positions) - 1
    matrix = np.eye(4)
    matrix[:3, 0] = row * between_columns
    matrix[:3, 1] = column * between_rows
    matrix[:3, 2] = (planes.positions[-1] - planes.positions[0]) / last if last else np.nan
    matrix[:3, 3] = planes.positions[0]
    ras: Array = LPS_TO_RAS @ matrix
    return ras if last else np.full((4, 4), np.nan)


def _step_findings(places: Array) -> list[Finding]:
    """Missing slices or uneven steps, from the places of the slices along the normal."""
    steps = np.diff(places)
    step = float(np.median(steps))
    tolerance = STEP_TOLERANCE * step + STEP_SLACK_MM
    multiples = np.maximum(np.rint(steps / step), 1)
    if (np.abs(steps - multiples * step) > tolerance).any():
        return [finding("uneven-steps", least=steps.min(), most=steps.max())]
    if missing := int((multiples - 1).sum()):
        return [finding("missing-slices", count=missing)]
    drift = np.abs(places - np.linspace(places[0], places[-1], len(places))).max()
    if drift > DRIFT_TOLERANCE * step + STEP_SLACK_MM:
        return [finding("uneven-steps", least=steps.min(), most=steps.max())]
    return []


def _straightness_findings(planes: Planes) -> list[Finding]:
    """A tilt of the whole stack, or single slices off its line."""
    places = planes.positions @ planes.normal
    sideways = planes.positions - np.outer(places, planes.normal)
    height = places[-1] - places[0]
    lean = sideways[-1] - sideways[0]
    found = []
    degrees = tilt_degrees(planes)
    if degrees > MAX_TILT_DEGREES:
        found.append(finding("tilt", degrees=degrees))
    line = sideways[0] + np.outer((places - places[0]) / height, lean)
    shift = float(np.linalg.norm(sideways - line, axis=1).max())
    if shift > STEP_TOLERANCE * height / (len(places) - 1) + STEP_SLACK_MM:
        found.append(finding("shifted-slices", shift=shift))
    return found


def _slopes(values: Array, slack: float) -> tuple[float, float]:
    """The least and the most slope of a line that passes every value within the slack; least > most if there is none.

    Any two values bound the slope, and one that all pairs allow leaves room for a line (Fourier-Motzkin elimination).
    """
    first, second = np.triu_indices(len(values), 1)
    rise, run = values[second] - values[first], second - first
    return float(((rise - 2 * slack) / run).max()), float(((rise + 2 * slack) / run).min())


def _skew(orientations: Array) -> Array:
    """How far each pair of directions is from being orthonormal."""
    rows, columns = orientations[:, :3], orientations[:, 3:]
    lengths = np.abs(np.stack([np.linalg.norm(rows, axis=1), np.linalg.norm(columns, axis=1)]) - 1).max(axis=0)
    skew: Array = np.maximum(lengths, np.abs((rows * columns).sum(axis=1)))
    return skew


def _different(values: Array, tolerance: float) -> int:
    """0 when all rows agree with the first, else how many different rows there are (to three digits)."""
    if (np.abs(values - values[0]) <= tolerance).all():
        return 0
    return max(2, len(np.unique(np.round(values, 3), axis=0)))


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)
