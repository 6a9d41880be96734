"""Order, affine and evenness of slices, for any orientation."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dicom_maker import AXIAL, CORONAL, SAGITTAL, Grid

from fedsite.dicom import geometry
from fedsite.dicom.geometry import Planes

finite = st.floats(-1, 1, allow_nan=False)
spacings = st.floats(0.2, 6)


@st.composite
def grids(draw: Callable[..., float]) -> Grid:
    """Any grid whose row and column directions are orthonormal."""
    axes = np.array([[draw(finite) for _ in range(3)] for _ in range(3)]) + np.eye(3) * 3
    directions = np.linalg.qr(axes)[0] * [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    row, column = directions[:, 0], directions[:, 1]
    origin = [draw(st.floats(-300, 300)) for _ in range(3)]
    slices = draw(st.integers(3, 40))
    return Grid(8, 6, slices, row, column, draw(spacings), draw(spacings), draw(spacings), origin)


def planes_of(grid: Grid, indices: np.ndarray | None = None) -> Planes:
    indices = np.arange(grid.slices) if indices is None else indices
    count = len(indices)
    return Planes(
        positions=np.array([grid.position(index) for index in indices]),
        orientations=np.tile([*grid.row, *grid.column], (count, 1)),
        spacings=np.tile([grid.between_rows, grid.between_columns], (count, 1)),
        sizes=np.tile([grid.rows, grid.columns], (count, 1)),
    )


@given(grids(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_and_affine_are_recovered_from_any_order(grid: Grid, random: object) -> None:
    shuffled = np.arange(grid.slices)
    random.shuffle(shuffled)
    planes = planes_of(grid, shuffled)
    assert geometry.plane_findings(planes) == []
    order = planes.sorting()
    assert (shuffled[order] == np.arange(grid.slices)).all()
    in_order = planes.take(order)
    assert geometry.count_positions(in_order) == grid.slices
    assert geometry.stack_findings(in_order) == []
    np.testing.assert_allclose(geometry.affine(in_order), grid.affine, atol=1e-6)


@given(grids(), st.integers(1, 38))
@settings(deadline=None)
def test_a_missing_slice_is_noticed(grid: Grid, index: int) -> None:
    if grid.slices < 5:
        grid = Grid(slices=7)
    gone = 1 + index % (grid.slices - 2)
    planes = planes_of(grid, np.delete(np.arange(grid.slices), gone))
    (found,) = geometry.stack_findings(planes)
    assert found.id == "missing-slices"
    assert found.message.startswith("1 slice")


@given(grids(), st.floats(0.6, 40))
@settings(deadline=None)
def test_a_tilt_is_measured_from_the_positions(grid: Grid, degrees: float) -> None:
    shear = np.array(grid.column) * grid.step * np.tan(np.radians(degrees))
    tilted = Grid(**{**vars(grid), "shear": shear})
    (found,) = geometry.stack_findings(planes_of(tilted))
    assert found.id == "tilt"
    assert f"{degrees:.1f} degrees" in found.message
    np.testing.assert_allclose(geometry.affine(planes_of(tilted)), tilted.affine, atol=1e-6)


def test_a_tilt_of_a_third_of_a_degree_is_no_fault() -> None:
    shear = (0, 3 * np.tan(np.radians(0.33)), 0)
    assert geometry.stack_findings(planes_of(Grid(slices=30, shear=shear))) == []


@pytest.mark.parametrize(("off_by", "is_fault"), [(0.06, False), (0.09, True)])
def test_steps_may_vary_by_two_percent_and_a_hundredth_of_a_millimetre(off_by: float, is_fault: bool) -> None:
    planes = planes_of(Grid(step=3.0, slices=9))  # tolerance 0.07 mm
    planes.positions[4, 2] += off_by
    assert [each.id for each in geometry.stack_findings(planes)] == ["uneven-steps"] * is_fault


def test_small_irregularities_must_not_add_up() -> None:
    planes = planes_of(Grid(step=1.0, slices=80))
    planes.positions[40:, 2] += 0.018 * np.arange(40)
    assert [each.id for each in geometry.stack_findings(planes)] == ["uneven-steps"]


@pytest.mark.parametrize("step", [0.625, 1.25, 2.04])
def test_rounded_positions_are_put_back_on_their_line(step: float) -> None:
    grid = Grid(slices=60, step=step, shear=(0.001, 0.002, 0))
    planes = planes_of(grid)
    planes.positions[:] = np.round(planes.positions, 1)
    even = geometry.unrounded(planes)
    assert even is not None
    assert geometry.stack_findings(even) == []
    assert np.abs(even.positions - planes_of(grid).positions).max() < 0.06


def test_steps_that_rounding_does_not_explain_stay_uneven() -> None:
    planes = planes_of(Grid(step=1.2, slices=20))
    planes.positions[:] = np.round(planes.positions, 1)
    planes.positions[9, 2] += 0.1
    assert geometry.unrounded(planes) is None
    assert [each.id for each in geometry.stack_findings(planes)] == ["uneven-steps"]


def test_a_missing_slice_is_not_rounded_away() -> None:
    planes = planes_of(Grid(step=1.25, slices=20), np.delete(np.arange(20), 9))
    planes.positions[:] = np.round(planes.positions, 1)
    assert geometry.unrounded(planes) is None


def test_unrounded_positions_are_left_alone() -> None:
    assert geometry.unrounded(planes_of(Grid(step=1.2345, slices=9))) is None


def test_positions_closer_than_a_hundredth_are_one_position() -> None:
    planes = planes_of(Grid(), np.array([0, 1, 1.001, 2]))
    assert geometry.count_positions(planes) == 3


@pytest.mark.parametrize(("turn", "is_fault"), [(1e-4, False), (5e-3, True)])
def test_orientations_must_agree(turn: float, is_fault: bool) -> None:
    planes = planes_of(Grid())
    planes.orientations[1] = [np.cos(turn), np.sin(turn), 0, -np.sin(turn), np.cos(turn), 0]
    assert [each.id for each in geometry.plane_findings(planes)] == ["mixed-orientation"] * is_fault


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_unusable_numbers_are_no_geometry(value: float) -> None:
    for part in ("positions", "orientations", "spacings"):
        planes = planes_of(Grid())
        getattr(planes, part)[2, 1] = value
        assert [each.id for each in geometry.plane_findings(planes)] == ["geometry-not-finite"]


@pytest.mark.parametrize("spacing", [0.0, -1.0, 1e-300])
def test_a_pixel_has_a_size(spacing: float) -> None:
    planes = planes_of(Grid())
    planes.spacings[0, 0] = spacing
    assert [each.id for each in geometry.plane_findings(planes)] == ["geometry-not-finite"]


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, CORONAL])
def test_a_single_slice_has_no_affine(axes: tuple[tuple[float, ...], ...]) -> None:
    single = planes_of(Grid(slices=1, row=axes[0], column=axes[1]))
    assert [each.id for each in geometry.stack_findings(single)] == ["too-few-slices"]
    assert np.isnan(geometry.affine(single)).all()
