import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from support.bids_maker import affine_of, dim_rim, head

from fedsite.dataset import checks
from fedsite.dataset.rules import RULES, finding

SHAPE = (5, 6, 7)
AFFINE = affine_of(SHAPE, (2.0, 1.5, 3.0))
TURNS = [
    np.array(list(zip(order, signs, strict=True)), float)
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]


def shifted(millimetres: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def rotated(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_swapped_and_flipped_axes_are_no_difference(turn):
    mask = np.random.default_rng(0).integers(0, 2, SHAPE)
    stored = apply_orientation(mask, turn)
    placed = checks.place_mask(stored, AFFINE @ inv_ornt_aff(turn, SHAPE), SHAPE, AFFINE, "e-a")
    assert placed.findings == ()
    np.testing.assert_array_equal(placed.values, mask)


def test_an_oblique_grid_is_compared_as_it_lies():
    mask = np.random.default_rng(0).integers(0, 2, SHAPE)
    stored = np.flip(mask, 0)
    affine = rotated(44)
    flip = np.array([[0, -1], [1, 1], [2, 1]], float)
    placed = checks.place_mask(stored, affine @ inv_ornt_aff(flip, SHAPE), SHAPE, affine, "e-a")
    assert placed.fits
    np.testing.assert_array_equal(placed.values, mask)


@given(st.floats(0.002, 0.099))
def test_rounding_is_snapped_with_a_warning(distance):
    placed = checks.place_mask(np.zeros(SHAPE), shifted(distance), SHAPE, AFFINE, "e-a")
    assert placed.fits
    assert [remark.id for remark in placed.findings] == ["label-grid-rounded"]


def test_a_difference_of_nothing_is_not_told():
    assert checks.place_mask(np.zeros(SHAPE), shifted(0.0005), SHAPE, AFFINE, "e-a").findings == ()


@pytest.mark.parametrize(
    "affine",
    [
        shifted(0.11),
        AFFINE @ np.diag([1.05, 1, 1, 1]),
        rotated(2),
        AFFINE @ np.diag([1, 1, 0, 1]),
        np.full((4, 4), np.nan),
    ],
    ids=["shift", "spacing", "rotation", "flat", "nan"],
)
def test_another_grid_is_refused(affine):
    placed = checks.place_mask(np.zeros(SHAPE), affine, SHAPE, AFFINE, "e-a")
    assert [remark.id for remark in placed.findings] == ["label-other-grid"]
    assert not placed.fits


@pytest.mark.parametrize("shape", [(5, 6, 8), (5, 6), (5, 6, 7, 2)])
def test_another_size_is_refused(shape):
    placed = checks.place_mask(np.zeros(shape), AFFINE, SHAPE, AFFINE, "e-a")
    assert [remark.id for remark in placed.findings] == ["label-other-grid"]


def test_the_farthest_corner_decides():
    stretched = AFFINE @ np.diag([1.02, 1, 1, 1])
    assert checks.corner_distance(AFFINE, stretched, SHAPE) == pytest.approx(2.0 * 4 * 0.02, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([0, 1], None),
        ([1], None),
        ([0], "label-empty"),
        ([0, 255], "label-stored-as-255"),
        ([0, 0.99999994], None),
        ([0, 1.01], "label-values-unknown"),
        ([0, 2], "label-values-unknown"),
        ([0, 0.5, 1], "label-values-unknown"),
        ([0, -1], "label-values-unknown"),
        ([0, np.nan, 1], "label-not-finite"),
        ([0, np.inf], "label-not-finite"),
    ],
)
def test_values_of_a_mask(values, rule):
    mask = np.resize(np.array(values, np.float32), SHAPE)
    found = checks.check_label(mask, {0: "background", 1: "lesion"}, "e-a")
    assert [remark.id for remark in found] == ([rule] if rule else [])
    assert all(remark.where == "e-a" and remark.mend for remark in found)


def test_a_probability_map_does_not_flood_the_message():
    mask = np.linspace(0, 1, 210).reshape(SHAPE)
    found = checks.check_label(mask, (0, 1), "e-a")[0]
    assert "more" in found.message
    assert len(found.message) < 200


def test_values_of_an_image():
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    assert checks.check_image(image, "s-a") == []
    image[1, 2, 3] = np.nan
    assert [remark.id for remark in checks.check_image(image, "s-a")] == ["image-not-finite"]
    assert [remark.id for remark in checks.check_image(np.full(SHAPE, 7.0), "s-a")] == ["image-constant"]


# --- skull or no skull ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_noisy_head_is_whole(seed):
    assert checks.input_state(head(seed).image, "MR") == ("whole-head", False)


@pytest.mark.parametrize("seed", range(4))
def test_a_brain_in_zeros_is_stripped(seed):
    assert checks.input_state(head(seed, stripped=True).image, "MR") == ("skull-stripped", False)


def test_noise_that_is_cut_off_at_zero_is_still_air():
    """Scanners that store small magnitudes as 0 leave air that is mostly, but not wholly, zero."""
    image = head().image
    image[image < 22] = 0
    border = np.concatenate([image[0].ravel(), image[:, 0].ravel()])
    assert (border == 0).mean() > 0.5
    assert checks.input_state(image, "MR")[0] == "whole-head"


def test_air_that_the_scanner_blanked_leaves_a_dark_rim():
    image = head().image
    indices = np.indices(image.shape)
    centre = (np.array(image.shape) - 1) / 2
    radius = np.sqrt(sum(((indices[axis] - centre[axis]) / (centre[axis] * 0.97)) ** 2 for axis in (0, 1)))
    image[radius > 1] = 0
    assert (image[0] == 0).mean() > 0.99
    assert checks.input_state(image, "MR")[0] == "whole-head"


def test_near_the_threshold_is_called_doubtful():
    assert checks.input_state(dim_rim(head(stripped=True)).image, "MR") == ("skull-stripped", True)


def test_in_ct_exact_zeros_outside_are_enough():
    content = head(stripped=True)
    assert checks.input_state(content.image * 0.01, "CT")[0] == "skull-stripped"
    whole = np.where(content.image == 0, -1024, content.image)
    assert checks.input_state(whole.astype(np.float32), "CT")[0] == "whole-head"


def test_an_image_of_nothing_is_no_stripped_brain():
    assert checks.input_state(np.zeros(SHAPE, np.float32), "MR") == ("whole-head", False)


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_rule_says_what_to_do():
    for rule in RULES.values():
        assert rule.id == rule.id.lower()
        assert rule.message.endswith((".", "}"))
        assert rule.mend.endswith(".")


def test_a_rule_without_its_facts_fails():
    with pytest.raises(KeyError):
        finding("label-contested", "e-a")
