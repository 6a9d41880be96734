from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsite.errors import DataNotFit
from fedsite.tasks.description import Channel, Task
from fedsite.training.augmentation import SCALE, SHIFT, augment
from fedsite.training.sampling import PatchSampler, optional_inputs


def stored(image, label, missing=()):
    """What the case store gives."""
    return SimpleNamespace(image=image, label=label, missing=missing, foreground=lambda: np.flatnonzero(label))


def case(shape=(40, 48, 44), lesion=True, channels=1, seed=0, missing=()):
    random = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.uint8)
    if lesion:
        label[4:7, 5:8, 6:9] = 1
    return stored(random.standard_normal((channels, *shape)).astype(np.float16), label, missing)


def holds_lesion(batch):
    return (batch.label > 0).flatten(1).any(dim=1)


def test_shapes_and_types():
    batch = PatchSampler([case(channels=2)], (16, 24, 32), 3, 0.5, seed=0)(0)
    assert batch.image.shape == (3, 2, 16, 24, 32)
    assert batch.image.dtype == torch.float16
    assert batch.label.shape == (3, 1, 16, 24, 32)
    assert batch.label.dtype == torch.uint8


def test_seed_and_step_alone_decide():
    cases = [case(seed=1), case(seed=2)]
    first, second = (PatchSampler(cases, (16, 16, 16), 4, 0.5, seed=9) for _ in range(2))
    second(0)
    assert torch.equal(first(5).image, second(5).image)
    assert torch.equal(first(5).label, second(5).label)
    assert first(5).changes == second(5).changes
    assert not torch.equal(first(5).image, first(6).image)
    assert not torch.equal(first(5).image, PatchSampler(cases, (16, 16, 16), 4, 0.5, seed=10)(5).image)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.67, 1.0])
def test_foreground_fraction(fraction):
    """A corner lesion that a free patch of this size meets with a small, known probability."""
    sampler = PatchSampler([case()], (16, 16, 16), 50, fraction, seed=3)
    found = torch.cat([holds_lesion(sampler(step)) for step in range(40)]).double().mean()
    # A free patch starts at 0..24, 0..32, 0..28 and meets the lesion when it starts at most at 6, 7, 8.
    by_chance = (7 / 25) * (8 / 33) * (9 / 29)
    expected = fraction + (1 - fraction) * by_chance
    assert abs(found - expected) < 4 * np.sqrt(0.25 / 2000)


def test_every_lesion_voxel_gets_its_turn_wherever_in_the_patch():
    sampler = PatchSampler([case()], (16, 16, 16), 20, 1.0, seed=3)
    places = torch.cat([torch.nonzero(augment(sampler(step)).label)[:, 2:] for step in range(20)])
    assert places.min() <= 1
    assert places.max() >= 14


def test_a_case_without_a_lesion_is_sampled_anywhere():
    batch = PatchSampler([case(lesion=False)], (16, 16, 16), 8, 1.0, seed=0)(0)
    assert not batch.label.any()


def test_cases_are_drawn_evenly():
    cases = []
    for number in range(4):
        one = case(lesion=False)
        one.image[:] = 10 * number
        cases.append(one)
    sampler = PatchSampler(cases, (16, 16, 16), 50, 0.0, seed=1)
    means = torch.cat([sampler(step).image.flatten(1).mean(dim=1) for step in range(20)])
    counts = np.bincount(np.rint(means.numpy() / 10).astype(int), minlength=4)
    assert counts.min() > 200


def test_a_small_case_is_padded_with_air_around():
    small = case(shape=(10, 48, 12))
    small.image[:] = 2
    small.image[0, 0] = -3
    batch = PatchSampler([small], (16, 16, 16), 8, 1.0, seed=0)(0)
    assert batch.image.shape[2:] == (16, 16, 16)
    around = torch.ones(16, 16, 16, dtype=torch.bool)
    around[3:13, :, 2:14] = False
    assert batch.image[:, 0, around].max() < -2
    assert batch.image[:, 0, 4:12, :, 2:14].min() > 1
    assert batch.label[:, 0, :3].sum() == batch.label[:, 0, 13:].sum() == 0
    assert batch.label.any()


def test_processes_share_out_a_batch():
    """Each makes its own patches, and together they are those that one would have made."""
    alone = PatchSampler([case(seed=1), case(seed=2)], (16, 16, 16), 5, 0.5, seed=3)(7)
    parts = [
        PatchSampler([case(seed=1), case(seed=2)], (16, 16, 16), 5, 0.5, seed=3, part=part)(7)
        for part in (slice(0, 2), slice(2, 5))
    ]
    assert [len(part) for part in parts] == [2, 3]
    assert torch.equal(torch.cat([part.image for part in parts]), alone.image)
    assert torch.equal(torch.cat([part.label for part in parts]), alone.label)
    assert parts[0].changes + parts[1].changes == alone.changes


def test_augmentation_is_light():
    one = case()
    one.image[0] = one.label * 8.0
    batch = PatchSampler([one], (16, 16, 16), 40, 1.0, seed=0)(0)
    calm = [number for number, change in enumerate(batch.changes) if not change.noise]
    found = augment(batch)
    image, label = found.image[calm], found.label[calm]
    assert 8 * (1 - SCALE) - SHIFT <= image[label > 0].min() <= image[label > 0].max() <= 8 * (1 + SCALE) + SHIFT
    assert image[label == 0].abs().max() <= SHIFT + 1e-6
    assert image[label > 0].std() > 0.1


def test_optional_channels_are_dropped_as_often_as_said_and_missing_ones_always():
    optional = {"adc": (1,), "flair": (2, 3)}
    full, poor = case(channels=4, seed=1), case(channels=4, seed=2, missing=("flair",))
    sampler = PatchSampler([full], (16, 16, 16), 100, 0, seed=0, optional=optional, channel_dropout=0.3)
    dropped = [change.dropped for step in range(10) for change in sampler(step).changes]
    assert set(dropped) == {(), (1,), (2, 3), (1, 2, 3)}
    assert abs(np.mean([1 in each for each in dropped]) - 0.3) < 0.06
    assert abs(np.mean([2 in each for each in dropped]) - 0.3) < 0.06
    without = PatchSampler([poor], (16, 16, 16), 20, 0, seed=0, optional=optional)(0)
    assert {change.dropped for change in without.changes} == {(2, 3)}
    assert not augment(without).image[:, 2:].any()


def test_a_channel_that_the_plan_does_not_ask_for_is_not_missed():
    batch = PatchSampler([case(channels=1, missing=("flair",))], (16, 16, 16), 2, 0, seed=0)(0)
    assert batch.changes[0].dropped == ()


def test_which_inputs_are_optional():
    channels = (
        Channel("ct", "CT", "", windows=((0.0, 80.0), (-20.0, 180.0))),
        Channel("cta", "CT", "", optional=True, windows=((0.0, 100.0), (0.0, 300.0))),
        Channel("flair", "MR", "", optional=True),
    )
    task = Task("t", "T", channels, {0: "background", 1: "lesion"}, (1, 1, 1), ())
    assert optional_inputs(task) == {"cta": (2, 3), "flair": (4,)}
    assert optional_inputs(task.narrowed(["ct", "flair"])) == {"flair": (2,)}


def test_cases_are_not_written_to(tmp_path):
    np.save(tmp_path / "image.npy", case().image)
    np.save(tmp_path / "label.npy", case().label)
    mapped = stored(np.load(tmp_path / "image.npy", mmap_mode="r"), np.load(tmp_path / "label.npy", mmap_mode="r"))
    batch = PatchSampler([mapped], (16, 16, 16), 2, 0.5, seed=0)(0)
    assert batch.image.is_contiguous()
    batch.image.add_(1)


def test_no_case_is_no_training():
    with pytest.raises(DataNotFit, match="no case"):
        PatchSampler([], (16, 16, 16), 2, 0.5, seed=0)
