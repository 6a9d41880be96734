"""What a scanner sees of a patient: a deformed head, simulated as diffusion-weighted echo-planar images.

Signal = S0 exp(-b ADC), so that b = 0, trace and ADC are consistent: fluid is bright at b = 0 and dark on the trace
image, an acute infarct is bright on the trace image by its low ADC (and a little by its T2), chronic white matter
lesions are bright at b = 0 and shine through a little. Noise is that of a magnitude image (Rician).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hospitals.anatomy import BRAIN_CENTRE_MM, CANVAS_SHAPE, GRID_MM, Head, canvas_affine
from hospitals.cohorts import ORDINARY, Cohort
from hospitals.fields import Affine, FloatArray, smooth_field
from hospitals.scanners import Scanner

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

TISSUES: dict[str, tuple[float, float]] = {
    "fluid": (2.3, 3.0e-3),
    "grey": (1.0, 0.82e-3),
    "white": (0.78, 0.74e-3),
    "bone": (0.05, 1.0e-3),
    "soft": (0.50, 1.3e-3),
    "eyes": (2.1, 2.8e-3),
}
"""Signal at b = 0 relative to grey matter, and ADC in mm2/s: common values at 1.5 to 3 T, echo time 70 to 90 ms."""

SUBSLICES = 2
"""Points through a slice over which a voxel is averaged: thick slices blur edges."""


@dataclass(frozen=True)
class DiffusionImages:
    """One patient's acquisition: arrays [column, row, slice] as float32, before scaling to stored values.

    `affine` (4x4, mm, DICOM's LPS axes) maps (column, row, slice) to patient coordinates; `mask` is uint8.
    """

    b0: FloatArray
    trace: FloatArray
    mask: np.ndarray
    affine: Affine


def acquire(
    head: Head, lesion: FloatArray, scanner: Scanner, rng: np.random.Generator, cohort: Cohort = ORDINARY
) -> DiffusionImages:
    """A patient of this anatomy and cohort, with this lesion (fraction per voxel of the canvas), in this scanner."""
    b0_signal, trace_signal = _signals(head, lesion, scanner, cohort, rng)
    affine = _scan_affine(scanner, rng)
    points = _where_to_look(affine, scanner, rng)
    b0, trace, fraction = (_sample(volume, points) for volume in (b0_signal, trace_signal, lesion))
    b0, trace = (_with_ghost(image, scanner) for image in (b0, trace))
    shading = np.exp(scanner.bias * smooth_field(rng, b0.shape, order=4))
    return DiffusionImages(
        b0=_receive(b0 * shading, scanner, rng, averages=1),
        trace=_receive(trace * shading, scanner, rng, averages=3),
        mask=(fraction > 0.5).astype(np.uint8),
        affine=affine,
    )


def _signals(
    head: Head, lesion: FloatArray, scanner: Scanner, cohort: Cohort, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """The noiseless signals at b = 0 and at the b-value on the canvas, of a patient whose tissues vary a little."""
    b_value = scanner.b_value
    b0, trace = np.zeros(CANVAS_SHAPE, np.float32), np.zeros(CANVAS_SHAPE, np.float32)
    matter_b0, matter_trace = np.zeros_like(b0), np.zeros_like(b0)
    for name, (s0, adc) in TISSUES.items():
        fraction: FloatArray = getattr(head, name)
        at_b0 = np.float32(s0 * rng.uniform(0.94, 1.06))
        at_b = np.float32(at_b0 * np.exp(-b_value * adc * rng.uniform(0.95, 1.05)))
        b0 += fraction * at_b0
        trace += fraction * at_b
        if name in ("grey", "white"):
            matter_b0 += fraction * at_b0
            matter_trace += fraction * at_b
    infarct_t2, infarct_adc_drop = _infarct(lesion, cohort, rng)
    patchy = smooth_field(rng, CANVAS_SHAPE, 16) - rng.uniform(*cohort.spared)
    chronic = np.clip(head.periventricular * 2.5 * patchy, 0, 1)
    t2_gain = 1 + infarct_t2 + cohort.chronic_t2_rise * chronic
    adc_change = -infarct_adc_drop + 0.2e-3 * chronic
    b0 += matter_b0 * (t2_gain - 1)
    trace += matter_trace * (t2_gain * np.exp(-b_value * adc_change) - 1)
    pile_up = 1 + rng.uniform(*scanner.pile_up) * head.near_air
    if scanner.fat:  # fat hardly diffuses: as bright on the trace image as at b = 0
        fat = np.float32(scanner.fat) * np.roll(head.soft, -round(scanner.fat_shift_mm / GRID_MM), axis=1)
        b0, trace = b0 + fat, trace + fat
    return b0 * pile_up, trace * pile_up


def _with_ghost(image: FloatArray, scanner: Scanner) -> FloatArray:
    """Odd and even echoes that disagree show the head again, half a field of view away along the phase encoding."""
    if not scanner.ghost:
        return image
    return image + np.float32(scanner.ghost) * np.roll(image, image.shape[1] // 2, axis=1)


def _infarct(lesion: FloatArray, cohort: Cohort, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Relative rise of T2 signal and drop of ADC (mm2/s) per voxel: uneven, and weaker in some patients."""
    unevenness = np.clip(1 + 0.25 * smooth_field(rng, CANVAS_SHAPE, order=20), 0.5, 1.5)
    rise = rng.uniform(*cohort.t2_rise) * lesion * unevenness
    drop = rng.uniform(*cohort.adc_drop) * lesion * unevenness
    return rise.astype(np.float32), drop.astype(np.float32)


def _rotation(degrees: tuple[float, float, float]) -> Affine:
    """Rotation about x, then y, then z (3x3)."""
    total = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        total = turn @ total
    return total


def _scan_affine(scanner: Scanner, rng: np.random.Generator) -> Affine:
    """Axial slices from below upward, tilted as the radiographer set them, centred near the magnet's centre (LPS)."""
    directions = _rotation((scanner.tilt_degrees + (rng.normal(0, 2) if scanner.tilt_degrees else 0.0), 0.0, 0.0))
    sizes = np.array([scanner.pixel_mm, scanner.pixel_mm, scanner.spacing_mm])
    middle = (np.array([scanner.matrix, scanner.matrix, scanner.slices]) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3] = directions * sizes
    affine[:3, 3] = rng.normal((0, 8, 20), (4, 6, 12)) - affine[:3, :3] @ middle
    return affine


def _where_to_look(affine: Affine, scanner: Scanner, rng: np.random.Generator) -> FloatArray:
    """Canvas coordinates [3, columns, rows, slices * SUBSLICES] of the scan's points, through this patient's shape.

    The patient's head is the template's rotated (a few degrees), scaled (a few per cent) and warped (a few mm).
    """
    shape = (scanner.matrix, scanner.matrix, scanner.slices * SUBSLICES)
    centre_ras = (LPS_TO_RAS @ affine @ np.append((np.array([*shape[:2], scanner.slices]) - 1) / 2, 1.0))[:3]
    to_template = np.eye(4)
    to_template[:3, :3] = np.diag(1 / rng.normal(1, 0.04, 3)) @ _rotation(tuple(rng.normal(0, (4, 3, 3))))
    lying = np.array(BRAIN_CENTRE_MM) + rng.normal(0, (2, 3, 3))
    to_template[:3, 3] = lying - to_template[:3, :3] @ centre_ras
    to_canvas = np.linalg.inv(canvas_affine()) @ to_template @ LPS_TO_RAS @ affine
    within = ((np.arange(SUBSLICES) + 0.5) / SUBSLICES - 0.5) * scanner.thickness_mm / scanner.spacing_mm
    slices = (np.arange(scanner.slices)[:, None] + within).ravel()
    axes = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), slices, indexing="ij", sparse=True)
    points = np.empty((3, *shape), np.float32)
    for i in range(3):
        points[i] = sum(to_canvas[i, j] * axes[j] for j in range(3)) + to_canvas[i, 3]
        points[i] += 2.5 / GRID_MM * smooth_field(rng, shape, order=6)
    return points


def _sample(volume: FloatArray, points: FloatArray) -> FloatArray:
    """Linear interpolation at the points, averaged through the slice; only near what is not zero, to save time."""
    near = np.ones(points.shape[1:], bool)
    for axis, x in enumerate(points):
        filled = np.flatnonzero(volume.any(axis=tuple(other for other in range(3) if other != axis)))
        near &= (x > filled[0] - 1) & (x < filled[-1] + 1)
    fine = np.zeros(near.shape, np.float32)
    fine[near] = ndimage.map_coordinates(volume, points[:, near], order=1, mode="constant", prefilter=False)
    total = np.zeros_like(fine[..., ::SUBSLICES])
    for i in range(SUBSLICES):
        total += fine[..., i::SUBSLICES]
    return total / np.float32(SUBSLICES)


def _receive(signal: FloatArray, scanner: Scanner, rng: np.random.Generator, averages: int) -> FloatArray:
    """The magnitude image of `averages` acquisitions: reconstruction filter, then noise in two channels (Rician)."""
    sigma = scanner.blur_mm / scanner.pixel_mm
    blurred = ndimage.gaussian_filter(signal, (sigma, sigma, 0.0))
    noise = np.float32(scanner.noise / np.sqrt(averages))
    real = blurred + noise * rng.standard_normal(blurred.shape, np.float32)
    imaginary = noise * rng.standard_normal(blurred.shape, np.float32)
    magnitude: FloatArray = np.hypot(real, imaginary, dtype=np.float32)
    return magnitude
