"""Filling outlines: by voxel centres, exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.label_maker import box, circle

from fedsite.dicom.labels.contours import fill

SHAPE = (40, 30)
COORDINATES = st.one_of(st.integers(-4, 44).map(float), st.floats(-4, 44, width=32))
POLYGONS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=9).map(np.array)


def area(corners: np.ndarray) -> float:
    """By the shoelace formula."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def inside(corners: np.ndarray, i: int) -> np.ndarray:
    """For a line of voxels whether a ray from each towards higher j crosses the outline an odd number of times."""
    crossings = np.zeros(SHAPE[1], int)
    for (i0, j0), (i1, j1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (i0 <= i) != (i1 <= i):
            crossings += j0 + (i - i0) * (j1 - j0) / (i1 - i0) > np.arange(SHAPE[1])
    return crossings % 2 == 1


@settings(max_examples=40)
@given(POLYGONS)
def test_filling_is_the_crossing_rule_at_every_centre(corners):
    filled = fill(corners, SHAPE)
    expected = np.array([inside(corners, i) for i in range(SHAPE[0])])
    # The two round differently where an edge passes a centre within rounding.
    assert (filled != expected).sum() <= _close(corners)


def _close(corners: np.ndarray) -> int:
    count = 0
    for (i0, j0), (i1, j1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if i0 == i1:
            continue
        lines = np.arange(SHAPE[0])
        lines = lines[(lines >= min(i0, i1) - 1) & (lines <= max(i0, i1) + 1)]
        crossings = j0 + (lines - i0) * (j1 - j0) / (i1 - i0)
        count += int((np.abs(crossings - np.rint(crossings)) < 1e-6).sum())
    return count


@pytest.mark.parametrize("low", [(3.0, 4.0), (3.5, 4.5), (2.9, 4.2)])
def test_a_square_has_its_area(low):
    corners = box(low, (low[0] + 12, low[1] + 7))
    assert fill(corners, SHAPE).sum() == area(corners) == 84


@pytest.mark.parametrize("radius", [3.0, 6.3, 11.7])
def test_a_circle_has_its_area(radius):
    corners = circle((19.4, 14.7), radius, 720)
    assert fill(corners, SHAPE).sum() == pytest.approx(area(corners), rel=0.03)


def test_the_direction_of_an_outline_means_nothing():
    corners = circle((19.4, 14.7), 8.2, 50)
    np.testing.assert_array_equal(fill(corners, SHAPE), fill(corners[::-1], SHAPE))
    np.testing.assert_array_equal(fill(corners, SHAPE), fill(np.roll(corners, 7, axis=0), SHAPE))


def test_neighbours_share_no_voxel_and_leave_none_out():
    left, right = box((2, 3), (9, 20)), box((9, 3), (15, 20))
    counts = fill(left, SHAPE).astype(int) + fill(right, SHAPE)
    np.testing.assert_array_equal(counts, fill(box((2, 3), (15, 20)), SHAPE))


def test_an_edge_that_is_passed_there_and_back_cancels():
    square = box((2.5, 2.5), (9.5, 9.5))
    spike = np.vstack([square, square[:1], [[20.25, 17.0]], square[:1]])
    np.testing.assert_array_equal(fill(spike, SHAPE), fill(square, SHAPE))


def test_an_outline_beyond_the_slice_fills_the_slice():
    assert fill(box((-9, -9), (99, 99)), SHAPE).all()
    assert not fill(box((41, 2), (60, 9)), SHAPE).any()
