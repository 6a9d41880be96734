"""Where the head is; a mask's size and place in it; how much of a mask the prepared grid holds."""

import dataclasses

import numpy as np
import pytest
from support.bids_maker import affine_of, head, write_subject

from fedsite.dataset import convert, lesions
from fedsite.dataset.head import coarse, find_head
from fedsite.dataset.manifest import CaseRecord
from fedsite.dataset.sources import collect


@pytest.fixture
def prepared(source, task, pseudonyms):
    """What becomes of a head with another mask."""

    def prepared(mask: np.ndarray, stripped: bool = False, spacing: float = 4.0):
        write_subject(source, "one", dataclasses.replace(head(4, stripped), mask=mask.astype(np.uint8)))
        (study,) = collect(source, None, task, pseudonyms).studies
        settings = convert.Settings(task, (spacing, spacing, spacing), None)
        return convert.prepare_study(convert.Work(study, "training", "0" * 64), settings).outcome

    return prepared


def rules(outcome) -> list[str]:
    return [remark.id for remark in outcome.findings]


def box(*corner: int, side: int = 1) -> np.ndarray:
    mask = np.zeros(head().image.shape, np.uint8)
    mask[tuple(slice(start, start + side) for start in corner)] = 1
    return mask


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_an_ordinary_lesion_is_not_remarked_on(seed, stripped):
    content = head(seed, stripped)
    found = find_head(content.image, content.affine)
    state = "skull-stripped" if stripped else "whole-head"
    assert lesions.check_lesion(content.mask, found, state, "s-a") == []


@pytest.mark.parametrize("stripped", [False, True])
def test_the_head_is_found_with_its_hollows(stripped):
    content = head(1, stripped)
    content.image[18:22, 20:24, 6:10] = 0  # a ventricle
    found = find_head(content.image, content.affine)
    brain = head(1, stripped=True).image > 0
    assert found.holds(np.argwhere(brain)).mean() > 0.995
    assert found.holds(np.argwhere(box(20, 22, 8))).all()
    assert not found.holds(np.array([[0, 0, 0], [39, 43, 15], [1, 22, 8]])).any()
    assert 1 <= found.voxels / brain.sum() < 1.9
    everywhere, nowhere = np.ones(content.image.shape, bool), np.zeros(content.image.shape, bool)
    assert (found.share_in(everywhere), found.share_in(nowhere)) == (1, 0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (0.4, 0.5, 0.7), (3.0, 7.0, 2.0)])
def test_blocks_are_means_of_what_they_cover(spacing):
    i, j, k = np.ogrid[:33, :28, :19]
    ramp = np.asfortranarray((i + 2.0 * j - k).astype(np.float32))
    small, block = coarse(ramp, affine_of(ramp.shape, spacing))
    assert all(1.4 < length * side < 7.5 for length, side in zip(block, spacing, strict=True))
    middle = [np.arange(count) * length + (length - 1) / 2 for count, length in zip(small.shape, block, strict=True)]
    x, y, z = np.meshgrid(*middle, indexing="ij")
    np.testing.assert_allclose(small, x + 2 * y - z, atol=3)


def test_an_image_without_a_head():
    found = find_head(np.ones((8, 8, 8), np.float32), affine_of((8, 8, 8)))
    assert found.voxels == 0
    assert found.share_in(np.zeros((8, 8, 8), bool)) == 1


# --- the rules ------------------------------------------------------------------------------------------------------


def test_a_slip_of_the_pen_is_told(prepared):
    assert rules(prepared(box(20, 22, 8))) == ["lesion-tiny"]
    assert rules(prepared(box(20, 22, 8, side=2))) == []


@pytest.mark.parametrize("stripped", [False, True])
def test_a_mask_of_the_whole_brain_is_told(prepared, stripped):
    assert rules(prepared(head(4, stripped=True).image > 0, stripped)) == ["lesion-outlying"]


def test_a_mask_beside_the_head_is_refused(prepared):
    assert rules(prepared(box(0, 0, 0, side=3))) == ["label-off-head"]


def test_a_mask_partly_beside_the_head_is_told(prepared):
    outcome = prepared(box(20, 22, 8, side=4) | box(0, 0, 0, side=4))
    assert isinstance(outcome, CaseRecord)
    assert rules(outcome) == ["label-partly-off-head"]


def test_a_mask_a_little_beyond_the_brain_is_not(prepared):
    """An expert's outline crosses the brain's border here and there."""
    content = head(4, stripped=True)
    mask = np.zeros_like(content.mask)
    edge = int(np.argmax(content.image[:, 22, 8] > 0))
    mask[edge - 1 : edge + 6, 18:26, 6:10] = 1
    assert rules(prepared(mask, stripped=True)) == []


def test_a_grid_too_coarse_for_the_lesion_is_told(prepared):
    outcome = prepared(box(20, 22, 8, side=2), spacing=9.0)
    assert "label-coarse" in rules(outcome) or "label-lost" in rules(outcome)
    assert lesions.check_ceiling(0.69, "s-a")[0].id == "label-coarse"
    assert lesions.check_ceiling(0.7, "s-a") == []
    assert lesions.check_ceiling(0.0, "s-a") == [], "label-lost says it"
    assert lesions.check_ceiling(None, "s-a") == []


# --- the Dice ceiling -----------------------------------------------------------------------------------------------


def test_an_unchanged_grid_loses_nothing():
    content = head(1)
    for order in "CF":
        mask = np.array(content.mask, order=order)
        assert lesions.dice_ceiling(mask, content.affine, mask, content.affine) == 1


def test_axes_that_are_turned_and_cropped_lose_nothing():
    content = head(1)
    low, high = np.argwhere(content.mask).min(0), np.argwhere(content.mask).max(0) + 1
    cropped = content.mask[tuple(slice(*edges) for edges in zip(low, high, strict=True))]
    turn = np.eye(4)
    turn[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, 1, 0]]
    turn[0, 3] = cropped.shape[0] - 1
    affine = content.affine.copy()
    affine[:3, 3] = (content.affine @ [*low, 1])[:3]
    turned = np.flip(cropped, 0).transpose(0, 2, 1)
    assert lesions.dice_ceiling(content.mask, content.affine, turned, affine @ turn) == 1


def test_what_a_coarser_grid_keeps_is_counted_voxel_by_voxel():
    """Every third voxel of an axis is kept and stands for three."""
    mask = np.random.default_rng(0).random((30, 12, 9)) < 0.2
    affine = affine_of((30, 12, 9), (1.0, 2.0, 3.0))
    prepared = mask[1::3]
    coarser = affine @ np.diag([3.0, 1, 1, 1])
    coarser[:3, 3] = (affine @ [1, 0, 0, 1])[:3]
    back = prepared.repeat(3, axis=0)
    expected = 2 * (back & mask).sum() / (back.sum() + mask.sum())
    found = lesions.dice_ceiling(mask.astype(np.uint8), affine, prepared.astype(np.uint8), coarser)
    assert found == pytest.approx(expected)


def test_without_a_lesion_there_is_no_ceiling():
    nothing = np.zeros((5, 6, 7), np.uint8)
    assert lesions.dice_ceiling(nothing, np.eye(4), nothing, np.eye(4)) is None
    assert lesions.dice_ceiling(nothing + 1, np.eye(4), nothing, np.eye(4)) == 0


def test_the_record_tells_the_ceiling(prepared):
    assert prepared(box(0, 0, 0) * 0).dice_ceiling is None
    assert 0.5 < prepared(head(4).mask).dice_ceiling <= 1
