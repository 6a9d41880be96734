from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsite.training import augmentation
from fedsite.training.augmentation import GAMMA, NOISE, SCALE, SHIFT, augment, draw
from fedsite.training.batches import Batch, Change

NOTHING = Change((False, False, False), (1.0, 1.0), (0.0, 0.0), 1.0, 0.0, 0)


@pytest.fixture
def batch():
    image = torch.randn(1, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0)).half()
    return Batch(image, (image[:, :1] > 0).byte())


def changed(batch, **what):
    return augment(replace(batch, changes=(replace(NOTHING, **what),)))


def test_no_change_is_none(batch):
    for found in (augment(batch), changed(batch)):
        assert found.image.dtype == torch.float32
        assert torch.equal(found.image, batch.image.float())
        assert torch.equal(found.label, batch.label)
        assert found.changes == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_moves_image_and_label(batch, axis):
    found = changed(batch, flips=tuple(number == axis for number in range(3)))
    assert torch.equal(found.image, batch.image.float().flip(axis + 2))
    assert torch.equal(found.label, batch.label.flip(axis + 2))


def test_scale_and_shift_of_each_input(batch):
    found = changed(batch, scale=(2.0, 0.5), shift=(1.0, -1.0))
    torch.testing.assert_close(found.image[:, 0], batch.image[:, 0].float() * 2 + 1)
    torch.testing.assert_close(found.image[:, 1], batch.image[:, 1].float() / 2 - 1)


def test_a_gamma_curve_keeps_range_and_order(batch):
    found, image = changed(batch, gamma=1.5).image, batch.image.float()
    for one, before in zip(found[0], image[0], strict=True):
        torch.testing.assert_close(one.min(), before.min())
        torch.testing.assert_close(one.max(), before.max())
        assert torch.equal(one.flatten().argsort(), before.flatten().argsort())
    assert (found - image).abs().max() > 0.05
    flat = Batch(torch.full((1, 2, 4, 4, 4), 3.0), torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8))
    assert torch.equal(changed(flat, gamma=1.5).image, flat.image)


def test_noise_is_its_seeds(batch):
    first, again, other = (changed(batch, noise=0.5, seed=seed).image for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.35 < (first - batch.image.float()).std() < 0.65


def test_a_dropped_input_is_zero_whatever_else_happens(batch):
    found = changed(batch, scale=(1.1, 1.1), shift=(0.1, 0.1), gamma=0.8, noise=0.1, dropped=(1,))
    assert not found.image[:, 1].any()
    assert found.image[:, 0].all()


def test_the_batch_is_left_as_it_was(batch):
    before = batch.image.clone()
    augment(replace(batch, image=batch.image.float(), changes=(replace(NOTHING, gamma=0.8, noise=0.2),)))
    assert torch.equal(batch.image, before)


def test_what_is_drawn_lies_in_its_ranges_and_happens_as_often_as_said():
    random = np.random.default_rng(0)
    drawn = [draw(random, 2) for _ in range(2000)]
    for index in range(3):
        assert 0.46 < np.mean([one.flips[index] for one in drawn]) < 0.54
    assert all(abs(scale - 1) <= SCALE for one in drawn for scale in one.scale)
    assert all(abs(shift) <= SHIFT for one in drawn for shift in one.shift)
    gammas = [one.gamma for one in drawn if one.gamma != 1]
    assert GAMMA[0] <= min(gammas) <= max(gammas) <= GAMMA[1]
    noises = [one.noise for one in drawn if one.noise]
    assert max(noises) <= NOISE
    for share in (len(gammas) / 2000, len(noises) / 2000):
        assert abs(share - augmentation.RARELY) < 0.03
    assert len({one.seed for one in drawn}) == 2000


def test_a_batch_is_cut_with_its_changes(batch):
    two = Batch(
        batch.image.repeat(3, 1, 1, 1, 1),
        batch.label.repeat(3, 1, 1, 1, 1),
        tuple(replace(NOTHING, seed=seed) for seed in range(3)),
    )
    part = two[1:3]
    assert len(part) == 2
    assert [change.seed for change in part.changes] == [1, 2]
    assert two[:1].to(torch.device("cpu")).changes[0].seed == 0
