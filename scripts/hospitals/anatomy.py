"""A whole head from the MNI152 template: tissue fractions on a 2 mm grid, in MNI space (RAS, mm).

The template inside the nilearn wheel (ICBM 2009a, symmetric; Fonov et al., NeuroImage 2011) shows the brain only.
Subarachnoid fluid, skull, scalp, face, neck and eyes are added around it: they need not be true, but a network that is
trained on these heads must learn to leave them alone.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from hospitals.fields import Affine, FloatArray, smooth_field

GRID_MM = 2
CANVAS_LOW_MM = (-106, -140, -112)
"""MNI coordinates of the first 1 mm voxel of the canvas's first block."""
CANVAS_SHAPE = (106, 128, 112)
BRAIN_CENTRE_MM = (0.0, -18.0, 9.0)

T1_FLUID, T1_TISSUE = 95.0, 150.0
"""Template intensities at which a voxel is all fluid, and all tissue. Deep grey matter is missing from both tissue
maps, so what they leave is no measure of fluid."""

SKULL_MM, SCALP_MM = (3.0, 9.0), (9.0, 15.0)
"""Distance from the brain's hull at which the layer begins and ends."""
FACE = ((0.0, 48.0, -62.0), (58.0, 46.0, 48.0))
NECK = ((0.0, -38.0, -92.0), (62.0, 62.0, 52.0))
"""Ellipsoids of soft tissue: centre and half axes, mm."""
EYES = ((-31.0, 58.0, -36.0), (31.0, 58.0, -36.0))
EYE_RADIUS_MM = 12.0
AIR_INTERFACES = ((0.0, 42.0, -26.0), (-50.0, -22.0, -34.0), (50.0, -22.0, -34.0))
"""Frontal sinus and the two petrous bones: where echo-planar images pile up signal."""


@dataclass(frozen=True)
class Head:
    """Tissue fractions, float32 in [0, 1], each [106, 128, 112] on the canvas; what they leave of 1 is air.

    `near_air` is the strength of the susceptibility artefact, `periventricular` where chronic white matter lesions lie,
    `hull` (bool) the inside of the skull.
    """

    fluid: FloatArray
    grey: FloatArray
    white: FloatArray
    bone: FloatArray
    soft: FloatArray
    eyes: FloatArray
    near_air: FloatArray
    periventricular: FloatArray
    hull: np.ndarray

    @property
    def brain(self) -> FloatArray:
        """Grey and white matter together."""
        return self.grey + self.white


def canvas_affine() -> Affine:
    """Voxel index on the canvas -> MNI mm (4x4, RAS)."""
    affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    affine[:3, 3] = np.array(CANVAS_LOW_MM) + (GRID_MM - 1) / 2
    return affine


def onto_canvas(volume: np.ndarray, affine: Affine) -> FloatArray:
    """A 1 mm volume in MNI space (axes along x, y, z, either direction) as block means on the canvas."""
    image = nib.as_closest_canonical(nib.Nifti1Image(volume, affine))
    data, origin = np.asanyarray(image.dataobj), image.affine[:3, 3]
    fine = np.zeros([n * GRID_MM for n in CANVAS_SHAPE], dtype=np.float32)
    start = np.rint(origin - np.array(CANVAS_LOW_MM)).astype(int)
    ends = np.minimum(start + data.shape, fine.shape)
    target = tuple(slice(max(s, 0), e) for s, e in zip(start, ends, strict=True))
    source = tuple(slice(max(-s, 0), e - s) for s, e in zip(start, ends, strict=True))
    fine[target] = data[source]
    for axis in range(3):
        planes = np.moveaxis(fine, axis, 0)
        fine = np.moveaxis((planes[::GRID_MM] + planes[1::GRID_MM]) / np.float32(GRID_MM), 0, axis)
    return np.ascontiguousarray(fine)


@cache
def load_head() -> Head:
    """Builds the head (about a second, kept for the process). Raises FileNotFoundError without nilearn's templates."""
    t1, grey_map, white_map = (_template(name) for name in ("t1", "gm", "wm"))
    inside = np.clip(onto_canvas((t1 > 0).astype(np.uint8), _template_affine()), 0, 1)
    hull = ndimage.binary_fill_holes(ndimage.binary_closing(inside > 0.5, iterations=8))
    t1_mean = onto_canvas(t1, _template_affine()) / np.maximum(inside, 0.05)
    tissue = hull * inside * np.clip((t1_mean - T1_FLUID) / (T1_TISSUE - T1_FLUID), 0, 1)
    matter = onto_canvas(grey_map, _template_affine()) + onto_canvas(white_map, _template_affine())
    white = tissue * onto_canvas(white_map, _template_affine()) / np.maximum(matter, 1.0)
    fluid_inside = np.maximum(hull - tissue, 0).astype(np.float32)
    outside = GRID_MM * ndimage.distance_transform_edt(~hull).astype(np.float32)
    eyes = np.max([_ball(centre, EYE_RADIUS_MM) for centre in EYES], axis=0) * (outside > SKULL_MM[0])
    rim = ~hull & (outside < SKULL_MM[0])
    bone = _layer(outside, *SKULL_MM) * ~rim * (1 - eyes)
    flesh = np.max([_layer(outside, *SCALP_MM), _ellipsoid(*FACE), _ellipsoid(*NECK)], axis=0)
    soft = np.clip(flesh - bone - eyes, 0, 1) * (outside >= SKULL_MM[0]) * _muscle_texture()
    ventricles = ndimage.binary_erosion(hull, iterations=14) & (fluid_inside > 0.6)
    from_ventricles = GRID_MM * ndimage.distance_transform_edt(~ventricles).astype(np.float32)
    return Head(
        fluid=np.where(rim, 1.0, fluid_inside).astype(np.float32),
        grey=(tissue - white).astype(np.float32),
        white=white.astype(np.float32),
        bone=bone.astype(np.float32),
        soft=soft.astype(np.float32),
        eyes=eyes.astype(np.float32),
        near_air=np.max([_blob(centre, 9.0) for centre in AIR_INTERFACES], axis=0).astype(np.float32),
        periventricular=(white * np.exp(-from_ventricles / 6.0)).astype(np.float32),
        hull=hull,
    )


def _template_path(name: str) -> Path:
    found = find_spec("nilearn")  # the package is only a carrier of files here: importing it takes seconds
    if found is None or found.origin is None:
        raise FileNotFoundError("nilearn is not installed: pip install 'fedsite[demo]'")
    return Path(found.origin).parent / "datasets" / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"


def _template(name: str) -> FloatArray:
    volume: FloatArray = np.asanyarray(nib.load(_template_path(name)).dataobj).astype(np.float32)
    return volume


def _template_affine() -> Affine:
    return np.asarray(nib.load(_template_path("t1")).affine, dtype=np.float64)


def coordinates() -> list[FloatArray]:
    """MNI x, y, z of the canvas's voxel centres, each shaped to broadcast."""
    axes = [
        np.arange(n, dtype=np.float32) * GRID_MM + np.float32(origin)
        for origin, n in zip(canvas_affine()[:3, 3], CANVAS_SHAPE, strict=True)
    ]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _squared_radius(centre: tuple[float, ...], half_axes: tuple[float, ...]) -> FloatArray:
    total = np.zeros(CANVAS_SHAPE, dtype=np.float32)
    for x, c, a in zip(coordinates(), centre, half_axes, strict=True):
        total += ((x - c) / a) ** 2
    return total


def _ellipsoid(centre: tuple[float, ...], half_axes: tuple[float, ...]) -> FloatArray:
    """1 inside, 0 outside, with an edge of about a voxel."""
    depth_mm = (1 - np.sqrt(_squared_radius(centre, half_axes))) * min(half_axes)
    filled: FloatArray = np.clip(depth_mm / GRID_MM + 0.5, 0, 1, dtype=np.float32)
    return filled


def _ball(centre: tuple[float, ...], radius_mm: float) -> FloatArray:
    return _ellipsoid(centre, (radius_mm,) * 3)


def _blob(centre: tuple[float, ...], sigma_mm: float) -> FloatArray:
    bell: FloatArray = np.exp(-0.5 * _squared_radius(centre, (sigma_mm,) * 3), dtype=np.float32)
    return bell


def _layer(distance_mm: FloatArray, begin_mm: float, end_mm: float) -> FloatArray:
    rising = np.clip((distance_mm - begin_mm) / GRID_MM + 0.5, 0, 1)
    falling = np.clip((end_mm - distance_mm) / GRID_MM + 0.5, 0, 1)
    return np.asarray(rising * falling, dtype=np.float32)


def _muscle_texture() -> FloatArray:
    field = smooth_field(np.random.default_rng(152), CANVAS_SHAPE, order=24)
    texture: FloatArray = np.clip(0.8 + 0.25 * field, 0.25, 1.0, dtype=np.float32)
    return texture
