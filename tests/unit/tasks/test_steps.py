"""fedsite's own steps against plain MONAI's: the same voxels, for less work."""

import itertools
from unittest import mock

import numpy as np
import plain_monai
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from fedsite.tasks import stroke_dwi
from fedsite.tasks.steps import grid
from fedsite.tasks.steps.grid import RasSpacingd, grid_for
from fedsite.tasks.steps.intensity import foreground, quartiles

TURNS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]
# Voxel sides over those of the result. 2, 4 and 2/3 make samples midway between voxels, where rounding decides.
RATIOS = (1, 1.0004, 2, 4, 6, 2 / 3, 0.4, 2 / 7, 1.7, 0.51)


def rotation(seed: int) -> np.ndarray:
    turned, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turned


def case_of(image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> dict:
    where = torch.from_numpy(affine)
    return {
        "image": MetaTensor(torch.from_numpy(image)[None], affine=where),
        "label": MetaTensor(torch.from_numpy(label)[None], affine=where),
    }


def noise(shape: tuple[int, ...], affine: np.ndarray, seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    return case_of(
        random.normal(100, 30, shape).astype(np.float32), random.integers(0, 3, shape).astype(np.uint8), affine
    )


def fast(spacing: tuple[float, ...]) -> RasSpacingd:
    return RasSpacingd(("image", "label"), spacing, ("bilinear", "nearest"))


def assert_same(found: dict, expected: dict, atol: float = 1e-3) -> None:
    for key in ("image", "label"):
        assert found[key].shape == expected[key].shape
        np.testing.assert_allclose(found[key].affine, expected[key].affine, atol=1e-6)
    np.testing.assert_allclose(found["image"].numpy(), expected["image"].numpy(), rtol=0, atol=atol)
    np.testing.assert_array_equal(found["label"].numpy(), expected["label"].numpy())


shapes = st.tuples(*[st.integers(2, 24)] * 3)
ratios = st.tuples(*[st.sampled_from(RATIOS)] * 3)
spacings = st.tuples(*[st.sampled_from([1.0, 2.0, 0.8, 1.2])] * 3)


@settings(max_examples=60, deadline=None)
@given(shapes, ratios, spacings, st.sampled_from(TURNS), st.one_of(st.none(), st.integers(0, 1000)), st.integers(0, 9))
def test_the_grid_is_monais_voxel_by_voxel(shape, ratio, spacing, turn, oblique, seed):
    affine = np.eye(4)
    rotated = np.eye(3) if oblique is None else rotation(oblique)
    affine[:3, :3] = rotated @ turn @ np.diag(np.array(spacing) * ratio)
    affine[:3, 3] = np.random.default_rng(seed).normal(0, 100, 3)
    assert_same(
        fast(spacing)(noise(shape, affine, seed)),
        plain_monai.chain(plain_monai.grid(spacing))(noise(shape, affine, seed)),
    )


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(8, 24)] * 3), st.floats(0.01, 0.4), st.integers(0, 100))
def test_a_sheared_volume_is_left_to_monai(shape, shear, seed):
    affine = np.diag([-0.8, 1.1, 3.0, 1.0])
    affine[1, 2] = shear
    affine[:3] = rotation(seed) @ affine[:3]
    case = noise(shape, affine)
    with mock.patch.object(grid, "linear", side_effect=AssertionError):
        found = fast((1.0, 1.0, 2.0))(case)
    assert_same(found, plain_monai.chain(plain_monai.grid((1.0, 1.0, 2.0)))(noise(shape, affine)))


def test_positions_that_are_rounded_do_not_matter():
    """Direction cosines of six digits leave a volume not quite rectangular: too little to matter."""
    affine = np.eye(4)
    affine[:3, :3] = np.round(rotation(3), 6) * [0.5, 0.5, 1.2]
    shape = (96, 90, 40)
    wander = grid_for(shape, affine, (1, 1, 1)).wander
    assert 0 < wander < grid.STRAIGHT
    assert_same(
        fast((1.0, 1.0, 1.0))(noise(shape, affine)),
        plain_monai.chain(plain_monai.grid((1.0, 1.0, 1.0)))(noise(shape, affine)),
        atol=0.2,  # of values that differ by 100 from one voxel to the next
    )


def test_an_affine_without_a_volume_is_refused():
    with pytest.raises(ValueError, match="no volume"):
        grid_for((4, 4, 4), np.diag([1.0, 0, 1, 1]), (1, 1, 1))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.0)])
def test_input_is_left_as_it_was(order, spacing):
    case = noise((6, 7, 8), np.diag([-1.0, 1, 1, 1]))
    case["image"] = MetaTensor(
        torch.from_numpy(np.array(case["image"][0].numpy(), order=order)[None]), case["image"].affine
    )
    before = {key: case[key].clone() for key in case}
    fast(spacing)(case)
    assert all(torch.equal(case[key], before[key]) for key in case)


def test_voxels_that_need_no_resampling_are_not_touched():
    case = noise((6, 7, 8), np.diag([-1.0, 1, -2, 1]))
    found = fast((1.0, 1.0, 2.0))(case)["image"].numpy()
    np.testing.assert_array_equal(found, case["image"].numpy()[:, ::-1, :, ::-1])


# --- whole chains, on what CT and MR look like ----------------------------------------------------------------------


def ball(shape: tuple[int, int, int], sides: tuple[float, ...]) -> np.ndarray:
    """Distance from the centre, 1 at a head's surface."""
    centred = [(np.arange(side) - (side - 1) / 2) * step for side, step in zip(shape, sides, strict=True)]
    x, y, z = np.meshgrid(*centred, indexing="ij")
    return np.sqrt((x / 36) ** 2 + (y / 42) ** 2 + (z / 34) ** 2)


def ct_like() -> dict:
    """A head in Hounsfield units, whole numbers: air, bone, brain with noise, a dense lesion; thin oblique slices."""
    random = np.random.default_rng(5)
    distance = ball((100, 108, 30), (0.8, 0.8, 2.5))
    image = np.where(distance < 1, 1000, -1000) + np.where(distance < 0.9, -965, 0)
    image = (image + np.where(distance < 0.9, random.normal(0, 6, distance.shape), 0)).round()
    label = ball((100, 108, 30), (3.1, 4.2, 9.0)) < 1
    affine = np.eye(4)
    angle = np.deg2rad(12)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] = affine[:3, :3] @ np.diag([-0.8, -0.8, 2.5])
    return case_of((image + 30 * label).astype(np.float32), label.astype(np.uint8), affine)


def mr_like(stripped: bool) -> dict:
    """A sagittal head in noise (or a brain in exact zeros) with a bright lesion."""
    random = np.random.default_rng(6)
    shape, sides = (44, 80, 90), (2.0, 1.25, 1.0)
    distance = ball(shape, sides)
    label = ball(shape, (9.0, 5.0, 4.0)) < 1
    image = 300.0 * (distance < 0.9) * (1 + 0.2 * distance) + 400 * label
    image = np.hypot(image + random.normal(0, 14, shape), random.normal(0, 14, shape))
    if stripped:
        image[distance >= 0.9] = 0
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, -2.0], [1.25, 0, 0], [0, -1.0, 0]]
    turned = np.moveaxis(image, 0, -1), np.moveaxis(label, 0, -1)
    return case_of(turned[0].astype(np.float32), turned[1].astype(np.uint8), affine)


def assert_stored_alike(found: dict, expected: dict) -> None:
    """Equal as stored: the image within the last digit of float16, the label voxel by voxel."""
    assert found["label"].shape == expected["label"].shape
    stored, plain = (case["image"].numpy().astype(np.float16) for case in (found, expected))
    assert np.all(np.abs(stored - plain) <= np.spacing(np.maximum(np.abs(stored), np.float16(0.1))))
    assert (stored == plain).mean() > 0.99
    np.testing.assert_array_equal(found["label"].numpy(), expected["label"].numpy())
    assert found["label"].numpy().any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.25, 0.9, 5.0)])
def test_ct(spacing):
    grids = [fast(spacing)], plain_monai.grid(spacing)
    ours, theirs = (plain_monai.chain([*grid, *plain_monai.ct_window()])(ct_like()) for grid in grids)
    assert_stored_alike(ours, theirs)


@pytest.mark.parametrize("stripped", [False, True], ids=["whole-head", "skull-stripped"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.2, 0.9, 5.0)])
def test_mr(spacing, stripped):
    ours = stroke_dwi.preprocessing(stroke_dwi.DESCRIPTION.narrowed(["dwi"]), spacing)(mr_like(stripped))
    theirs = plain_monai.chain(plain_monai.stroke_dwi(spacing))(mr_like(stripped))
    assert_stored_alike(ours, theirs)


# --- intensities ----------------------------------------------------------------------------------------------------

rows = st.lists(st.integers(0, 50), min_size=1, max_size=60)


@given(rows)
def test_quartiles_are_ranks(values):
    ordered = sorted(values)
    expected = tuple(float(ordered[round(part * (len(values) - 1))]) for part in (0.25, 0.5, 0.75))
    assert quartiles(np.array(values, np.float32)) == expected


@settings(deadline=None)
@given(rows.filter(lambda values: len(values) > 3))
def test_the_foreground_is_that_of_plain_torch(values):
    image = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
    assert torch.equal(foreground(image), plain_monai.foreground(image))
