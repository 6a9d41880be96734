import itertools

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage

from fedsite.training import metrics
from fedsite.training.metrics import measure

SPACING = (1.0, 2.0, 3.5)
LESION = {"lesion": (1,)}


def blobs(seed, shape=(20, 18, 12), threshold=0.02):
    """Smooth noise above a threshold: some lesions of some sizes."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return (ndimage.gaussian_filter(noise, 1.2) > threshold + 0.12).astype(np.uint8)


def empty(shape=(6, 6, 6)):
    return np.zeros(shape, np.uint8)


def with_voxels(*voxels):
    label = empty()
    for voxel in voxels:
        label[voxel] = 1
    return label


def lesion(prediction, label, spacing=(1.0, 1.0, 1.0)):
    return measure(prediction, label, spacing, LESION)["lesion"]


def test_dice():
    one = np.zeros((4, 4, 4), dtype=np.uint8)
    one[0] = 1
    half = one.copy()
    half[0, :2] = 0
    none = np.zeros_like(one)
    assert metrics.dice(one, one) == 1
    assert metrics.dice(one, half) == metrics.dice(half, one) == pytest.approx(2 * 8 / (16 + 8))
    assert metrics.dice(one, 1 - one) == 0
    assert metrics.dice(none, none) == 1
    assert metrics.dice(none, one) == metrics.dice(one, none) == 0


@pytest.mark.parametrize("compare", [metrics.dice, lesion])
def test_arrays_of_other_shapes(compare):
    with pytest.raises(ValueError, match="shape"):
        compare(empty(), empty((6, 6, 5)))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
@pytest.mark.parametrize("seed", range(6))
def test_hd95_is_monais(seed):
    found, true = blobs(seed), blobs(seed + 100, threshold=0.05)
    expected = compute_hausdorff_distance(
        torch.from_numpy(found)[None, None],
        torch.from_numpy(true)[None, None],
        include_background=True,
        percentile=95,
        spacing=list(SPACING),
    ).item()
    assert lesion(found, true, SPACING).hd95_mm == pytest.approx(expected, rel=1e-5)
    assert lesion(true, found, SPACING).hd95_mm == pytest.approx(expected, rel=1e-5)


def test_hd95_is_the_95th_percentile_of_both_directions():
    """By distance transforms: few voxels of a plate lie far from a part of it."""
    plate, part = empty((11, 11, 3)), empty((11, 11, 3))
    plate[:, :, 1] = 1
    part[:, :, 1] = 1
    part[6:, 9:, 1] = 0
    to_part = ndimage.distance_transform_edt(part == 0, sampling=SPACING)[plate > 0]
    assert lesion(plate, part, SPACING).hd95_mm == pytest.approx(np.percentile(to_part, 95))
    assert lesion(plate, part, SPACING).hd95_mm < to_part.max()


def test_hd95_between_two_planes_is_their_distance_in_mm():
    one, other = empty(), empty()
    one[:, :, 0] = 1
    other[:, :, 4] = 1
    assert lesion(one, other, SPACING).hd95_mm == pytest.approx(4 * 3.5)
    assert lesion(one, one, SPACING).hd95_mm == 0


@pytest.mark.parametrize(("found", "true"), [(0, 0), (0, 1), (1, 0)])
def test_hd95_is_not_defined_without_two_borders(found, true):
    assert lesion(np.full((4, 4, 4), found, np.uint8), np.full((4, 4, 4), true, np.uint8)).hd95_mm is None


def test_volumes_are_in_ml():
    measured = lesion(with_voxels((0, 0, 0)), with_voxels((0, 0, 0), (5, 5, 5), (1, 3, 5)), (5.0, 10.0, 2.0))
    assert measured.segmented_ml == pytest.approx(0.1)
    assert measured.drawn_ml == pytest.approx(0.3)
    assert measured.volume_difference_ml == pytest.approx(-0.2)
    assert [part.ml for part in measured.lesions] == pytest.approx([0.1] * 3)


def test_lesions_that_touch_by_a_corner_are_one():
    assert len(lesion(empty(), with_voxels((1, 1, 1), (2, 2, 2))).lesions) == 1
    assert len(lesion(empty(), with_voxels((1, 1, 1), (2, 2, 3))).lesions) == 2


def test_one_shared_voxel_is_a_hit():
    label, prediction = empty(), empty()
    label[:3, :3, :3] = 1
    prediction[2:5, 2:5, 2:5] = 1
    assert lesion(prediction, label).f1 == 1
    prediction[2, 2, 2] = 0
    assert lesion(prediction, label).f1 == 0, "a neighbour is no hit"


def test_without_lesions():
    nothing, something = empty(), with_voxels((1, 1, 1))
    assert (lesion(nothing, nothing).f1, lesion(nothing, nothing).dice) == (1, 1)
    assert (lesion(nothing, nothing).precision, lesion(nothing, nothing).recall) == (1, 1)
    assert (lesion(something, nothing).f1, lesion(nothing, something).f1) == (0, 0)
    assert (lesion(something, nothing).precision, lesion(something, nothing).recall) == (0, None)
    assert (lesion(nothing, something).precision, lesion(nothing, something).recall) == (None, 0)


def test_one_part_may_hit_two_lesions():
    """Two lesions drawn, one part over both, one beside: 2 TP, 1 FP, no FN."""
    label = with_voxels((0, 0, 0), (0, 0, 3), (0, 3, 0))
    prediction = with_voxels((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (5, 5, 5))
    measured = lesion(prediction, label)
    assert [part.found for part in measured.lesions] == [True, True, False]
    assert measured.false_lesions == 1
    assert measured.precision == pytest.approx(2 / 3)
    assert measured.recall == pytest.approx(2 / 3)
    assert measured.f1 == pytest.approx(4 / 6)


def parts_of(label):
    """Connected parts by growing them voxel by voxel: sets of voxels."""
    left = {tuple(voxel) for voxel in np.argwhere(label)}
    found = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            part.add(voxel)
            around = {tuple(np.add(voxel, step)) for step in itertools.product((-1, 0, 1), repeat=3)} & left
            left -= around
            edge += around
        found.append(part)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_counted_as_by_hand(seed):
    found, true = blobs(seed, (14, 12, 10), 0.1), blobs(seed + 50, (14, 12, 10), 0.1)
    drawn, named = parts_of(true), parts_of(found)
    hits = sum(any(lesion & part for part in named) for lesion in drawn)
    false = sum(not any(lesion & part for lesion in drawn) for part in named)
    assert len(drawn) > 3 < len(named)
    measured = lesion(found, true)
    assert (len(measured.lesions), measured.found_lesions, measured.false_lesions) == (len(drawn), hits, false)
    assert measured.f1 == pytest.approx(hits / (hits + (len(drawn) - hits + false) / 2))
    assert sorted(part.ml * 1000 for part in measured.lesions) == pytest.approx(sorted(map(len, drawn)))


def test_each_structure_has_its_own_measures():
    label, prediction = empty(), empty()
    label[1:5, 1:5, 1:5] = 1
    label[2:4, 2:4, 2:4] = 2
    prediction[1:5, 1:5, 1:5] = 2
    found = measure(prediction, label, (1.0, 1.0, 1.0), {"whole": (1, 2), "core": (2,)})
    assert found["whole"].dice == 1
    assert found["core"].dice == pytest.approx(2 * 8 / (64 + 8))
    assert found["core"].drawn_ml == pytest.approx(0.008)


def test_where_the_lesions_lie_does_not_matter():
    found, true = blobs(7), blobs(8)
    wide = [np.pad(bits, ((3, 9), (0, 4), (11, 2))) for bits in (found, true)]
    assert lesion(*wide, SPACING) == lesion(found, true, SPACING)
