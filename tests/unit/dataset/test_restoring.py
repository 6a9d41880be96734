import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from fedsite.dataset import restoring
from fedsite.dataset.restoring import SourceGrid, to_source_grid

SIDES = (14, 12, 10)


def most_probable(sure):
    return sure.argmax(axis=0).astype(np.uint8)


def nested(sure):
    """Two regions, the inner one painted over the outer."""
    return np.where(sure[1] > 0.5, 2, np.where(sure[0] > 0.5, 1, 0)).astype(np.uint8)


def some_probabilities(seed, outputs=3, sides=SIDES):
    smooth = gaussian_filter(np.random.default_rng(seed).standard_normal((outputs, *sides)), (0, 1.5, 1.5, 1.5)) * 12
    smooth[0] += 2
    return (np.exp(smooth) / np.exp(smooth).sum(axis=0)).astype(np.float32)


def turned(angle=0.2):
    """A prepared grid of 2 mm, turned in the scanner's space."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:2, :2] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:3, 3] = (-20, 35, 4)
    return affine


def oblique_source(affine):
    """Slices of 5 mm, axes in another order and direction, as scanners write them; larger than what is prepared."""
    onto_prepared = np.array([[0, 0.4, 0, -2], [-0.45, 0, 0, 13.5], [0, 0, 2.5, -1], [0, 0, 0, 1.0]])
    return SourceGrid((34, 44, 6), affine @ onto_prepared)


def looking_everywhere(sure, affine, source, decode):
    at = np.einsum("ab,b...->a...", np.linalg.inv(affine) @ source.affine, _voxels(source.shape))[:3]
    sampled = np.stack([map_coordinates(one, at, order=1, mode="nearest") for one in sure])
    last = np.array(sure.shape[1:])[:, None, None, None] - 1
    covered = ((at >= -0.5) & (at <= last + 0.5)).all(axis=0)
    return np.where(covered, decode(sampled), 0)


def _voxels(shape):
    return np.concatenate([np.indices(shape), np.ones((1, *shape))])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decode", [most_probable, nested])
@pytest.mark.parametrize("slab", [7, 1 << 20])
def test_it_is_what_looking_everywhere_gives(seed, decode, slab, monkeypatch):
    monkeypatch.setattr(restoring, "_SLAB_VOXELS", slab)
    sure, affine = some_probabilities(seed), turned()
    source = oblique_source(affine)
    expected = looking_everywhere(sure, affine, source, decode)
    found = to_source_grid(sure, affine, source, decode)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) == 3


def test_its_own_grid_is_as_it_is():
    sure, affine = some_probabilities(5), turned()
    assert np.array_equal(to_source_grid(sure, affine, SourceGrid(SIDES, affine), most_probable), most_probable(sure))


def test_nothing_marked_is_nothing():
    sure = np.stack([np.ones(SIDES), np.zeros(SIDES)]).astype(np.float32)
    assert not to_source_grid(sure, turned(), oblique_source(turned()), most_probable).any()


def test_what_was_not_prepared_is_background():
    """All of the prepared grid is marked: on a larger source, its voxels and no others."""
    sure = np.stack([np.zeros(SIDES), np.ones(SIDES)]).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    moved = affine.copy()
    moved[:3, 3] = (-6, -8, -10)
    found = to_source_grid(sure, affine, SourceGrid((30, 30, 30), moved), most_probable)
    expected = np.zeros((30, 30, 30), np.uint8)
    expected[3:17, 4:16, 5:15] = 1
    assert np.array_equal(found, expected)


def test_the_marked_part_may_lie_beyond_the_source():
    sure = some_probabilities(6)
    far = turned()
    far[:3, 3] += 500
    assert not to_source_grid(sure, turned(), SourceGrid((9, 9, 9), far), most_probable).any()


def test_borders_are_finer_than_prepared_voxels():
    """A ball of 1 mm voxels, prepared at 3 mm by averages, comes back better than as blocks."""
    grid = np.indices((45, 45, 45)) - 22
    ball = ((grid**2).sum(axis=0) < 13**2).astype(np.float32)
    means = ball.reshape(15, 3, 15, 3, 15, 3).mean(axis=(1, 3, 5))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = 1
    found = to_source_grid(np.stack([1 - means, means]), affine, SourceGrid(ball.shape, np.eye(4)), most_probable)
    blocks = np.kron(means > 0.5, np.ones((3, 3, 3)))
    assert np.count_nonzero(found != ball) < 0.6 * np.count_nonzero(blocks != ball)
