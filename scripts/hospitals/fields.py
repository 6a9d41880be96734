"""Smooth random fields and the arrays that all modules here share."""

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Affine = NDArray[np.float64]


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], order: int) -> FloatArray:
    """A random field [*shape] of mean 0 and standard deviation near 1, with at most `order` half waves along an axis.

    A tensor product of cosines with random coefficients that fall off with frequency: as smooth as a B-spline
    deformation, and a few small matrix products instead of a filter over the whole volume.
    """
    frequencies = np.indices((order,) * len(shape))
    fall_off = 1.0 / (1.0 + np.sqrt((frequencies**2).sum(axis=0)))
    coefficients = rng.standard_normal(fall_off.shape) * fall_off
    coefficients[(0,) * len(shape)] = 0.0
    coefficients /= math.sqrt(float((coefficients**2).sum()) / 2 ** len(shape))
    field = coefficients.astype(np.float32)
    for length in shape:
        positions = (np.arange(length) + 0.5) / length
        basis = np.cos(math.pi * np.outer(positions, np.arange(order))).astype(np.float32)
        # Contracting the leading axis appends the new one: after all axes the order is that of `shape` again.
        field = np.tensordot(field, basis, axes=(0, 1))
    return np.ascontiguousarray(field)
