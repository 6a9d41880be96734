"""The attacks on both mechanisms: they find what is there, no more than is stated, and see what is broken.

Data, sampling and noise are seeded, so that the statistics are the same in every run; what is attacked is the code of a
round. A mutant is a mechanism that was broken by hand: the attack must notice it where an attack can.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from support.site import blob

from fedsite.privacy import accountant, attacks, lower_bounds, mechanism
from fedsite.privacy.accountant import Release
from fedsite.privacy.attacks import Inversion, PatchGradient, SumRelease, UpdateRelease
from fedsite.privacy.dpsgd import Settings
from fedsite.privacy.mechanism import Gate
from fedsite.tasks import networks, registry

DELTA = 1e-5
TASK = registry.get("stroke-dwi").narrowed(["dwi"])
LOSS = registry.module(TASK.name).loss()


class SeededNoise:
    """The noise of a test; `part` of what it should be."""

    def __init__(self, seed: int = 0, part: float = 1.0) -> None:
        self.random, self.part = np.random.default_rng(seed), part

    def standard_normal(self, count: int) -> NDArray[np.float64]:
        return self.part * self.random.standard_normal(count)


class SeededChance:
    """The sampling of a test."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)

    def included(self, count: int, rate: float) -> Sequence[int]:
        return np.flatnonzero(self.random.random(count) < rate).tolist()


def unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant of the mechanism that clips nothing, nor asks whether that worked."""
    monkeypatch.setattr(mechanism, "factor_of", lambda gate, norm: gate.scale)
    monkeypatch.setattr(mechanism, "require_bounded", lambda square: None)


def network(channels: Sequence[int] = (4, 8)) -> torch.nn.Module:
    return networks.build(TASK, "unet", {"channels": list(channels)})


# --- what leaves ----------------------------------------------------------------------------------------------------


def test_an_attacked_update_is_what_a_round_seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update, gate = np.random.default_rng(1).normal(size=50_000), Gate(2.0, 0.5, 50_000)
    monkeypatch.setattr(mechanism, "SystemNoise", SeededNoise)
    mechanism.seal(update.__getitem__, gate, b"", np.dtype(np.float64), tmp_path / "sealed")
    attacked = UpdateRelease(gate, SeededNoise()).of_update(update)
    assert np.array_equal(np.fromfile(tmp_path / "sealed"), attacked)


def test_an_update_is_the_mean_gradient_as_far_as_it_may_go() -> None:
    gradients = np.random.default_rng(2).normal(size=(3, 500))
    left = UpdateRelease(Gate(2.0, 0.0, 500), SeededNoise())(gradients)
    mean = gradients.mean(axis=0)
    assert np.allclose(left, 2 * mean / np.linalg.norm(mean), atol=1e-5)
    assert not UpdateRelease(Gate(2.0, 0.0, 500), SeededNoise())(np.zeros((2, 500))).any()


def test_an_attacked_sum_is_that_of_clipped_gradients() -> None:
    gradients = np.random.default_rng(3).normal(size=(3, 500)) * [[0.01], [1.0], [5.0]]
    left = SumRelease(500, Settings(2.0, 0.0, batch_patients=4, sampling_rate=1.0))(gradients)
    clipped = [one * min(1, 2 / np.linalg.norm(one)) for one in gradients]
    assert np.allclose(left, np.sum(clipped, axis=0), atol=1e-5)


def test_a_sum_is_noised_whoever_is_in_it() -> None:
    release = SumRelease(20_000, Settings(2.0, 0.5, batch_patients=4, sampling_rate=1.0), noise=SeededNoise())
    for gradients in ([], [np.zeros(20_000)], [np.ones(20_000)]):
        assert np.std(release(gradients)) == pytest.approx(1.0, rel=0.03), "sigma times C, before the division"


# --- two worlds -----------------------------------------------------------------------------------------------------

SIGMA = 4.0
RUNS = 3000


def worlds(part: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    release = UpdateRelease(Gate(2.0, SIGMA, 64), SeededNoise(part=part))
    return attacks.worlds(release, RUNS)


def test_two_worlds_show_no_more_than_is_stated() -> None:
    without, within = worlds()
    assert len(without) == len(within) == RUNS // 2
    assert without.mean() == pytest.approx(-1, abs=4 * SIGMA / np.sqrt(RUNS / 2))
    stated = accountant.gaussian_update(SIGMA)
    bound = lower_bounds.two_worlds(without, within, DELTA)
    assert 0.4 < bound.epsilon / accountant.sequence_epsilon([stated], DELTA) <= 1
    found = lower_bounds.accuracy(without, within, stated)
    assert found.low <= found.allowed


def test_two_worlds_see_a_third_of_the_noise() -> None:
    bound = lower_bounds.two_worlds(*worlds(part=1 / 3), DELTA)
    assert bound.epsilon > 1.5 * accountant.sequence_epsilon([accountant.gaussian_update(SIGMA)], DELTA)


def test_two_worlds_see_half_of_the_noise() -> None:
    bound = lower_bounds.two_worlds(*worlds(part=1 / 2), DELTA)
    assert bound.epsilon > accountant.sequence_epsilon([accountant.gaussian_update(SIGMA)], DELTA)


def test_two_worlds_see_that_nothing_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    unclipped(monkeypatch)
    bound = lower_bounds.two_worlds(*worlds(), DELTA)
    assert bound.epsilon > 3 * accountant.sequence_epsilon([accountant.gaussian_update(SIGMA)], DELTA)


def test_two_worlds_see_c_taken_for_2c() -> None:
    """One patient can turn the update around: whoever counts C as the sensitivity states too little."""
    found = lower_bounds.accuracy(*worlds(), Release(SIGMA))
    assert found.low > found.allowed


# --- one run with canaries ------------------------------------------------------------------------------------------

CANARIES = 2000
SAMPLED = Settings(2.0, 2.0, batch_patients=8, sampling_rate=0.5)
WHOLE = Settings(2.0, 3.34, batch_patients=8, sampling_rate=1.0)


def one_run(
    settings: Settings, steps: int, part: float = 1.0, canaries: int = CANARIES
) -> tuple[float, float, lower_bounds.Accuracy]:
    """The bound, what is stated, and how many guesses were right, of one run with canaries."""
    included = np.random.default_rng(4).random(canaries) < 0.5
    ratios = attacks.canaries(settings, steps, included, SeededChance(), SeededNoise(part=part))
    stated = Release(settings.noise_multiplier, settings.sampling_rate, steps)
    bound = lower_bounds.one_run(ratios, included, DELTA)
    accuracy = lower_bounds.accuracy(ratios[~included], ratios[included], stated)
    return bound.epsilon, accountant.sequence_epsilon([stated], DELTA), accuracy


@pytest.mark.parametrize(("settings", "steps"), [(SAMPLED, 8), (WHOLE, 4)], ids=["sampled", "whole"])
def test_one_run_shows_no_more_than_is_stated(settings: Settings, steps: int) -> None:
    bound, stated, accuracy = one_run(settings, steps)
    assert stated / 10 < bound <= stated
    assert accuracy.low <= accuracy.allowed
    assert accuracy.right / accuracy.guesses == pytest.approx(accuracy.allowed, abs=0.035), "the attack is a good one"


@pytest.mark.parametrize(("settings", "steps"), [(SAMPLED, 8), (WHOLE, 4)], ids=["sampled", "whole"])
def test_one_run_sees_a_third_of_the_noise(settings: Settings, steps: int) -> None:
    bound, stated, accuracy = one_run(settings, steps, part=1 / 3)
    assert bound > stated
    assert accuracy.low > accuracy.allowed + 0.1


def test_one_run_sees_that_nothing_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    unclipped(monkeypatch)
    bound, stated, accuracy = one_run(SAMPLED, 8, canaries=600)
    assert bound > stated
    assert accuracy.low > accuracy.allowed


def test_one_run_sees_that_everybody_is_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeededChance, "included", lambda self, count, rate: range(count))
    _, _, accuracy = one_run(SAMPLED, 8, canaries=600)
    assert accuracy.low > accuracy.allowed


def test_canaries_without_noise_are_all_known() -> None:
    included = np.random.default_rng(5).random(200) < 0.5
    ratios = attacks.canaries(Settings(1.0, 0.0, 8, 0.5), 20, included, SeededChance())
    assert ((ratios > 0) == included).all()


# --- gradient inversion ---------------------------------------------------------------------------------------------

ITERATIONS, YARDSTICKS = 30, 5


@pytest.fixture(scope="module")
def patch() -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """A patch of 12 voxels a side, smooth as tissue is, with a bright lesion and a little noise; and its label."""
    random = np.random.default_rng(6)
    tissue = gaussian_filter(random.normal(size=(40, 40, 40)), 2)[14:26, 14:26, 14:26]
    distance = np.linalg.norm(np.indices((12, 12, 12)) - np.array([6, 5, 7])[:, None, None, None], axis=0)
    label = (distance < 3).astype(np.uint8)
    image = 0.5 * tissue / tissue.std() + gaussian_filter(2.0 * label, 0.7) + 0.03 * random.normal(size=label.shape)
    return image[None], label


@pytest.fixture(scope="module")
def gradient(patch: tuple[NDArray[np.float64], NDArray[np.uint8]]) -> PatchGradient:
    return PatchGradient(network((12, 24)), LOSS, patch[1], (12, 12, 12))


@pytest.fixture(scope="module")
def inverted(gradient: PatchGradient, patch: tuple[NDArray[np.float64], NDArray[np.uint8]]) -> Inversion:
    """What an update of gaussian-update gives away."""
    image, _ = patch
    leaves = UpdateRelease(Gate(1.0, 2.0, len(gradient(image))), SeededNoise())
    return attacks.inversion(gradient, image, leaves, iterations=ITERATIONS, yardsticks=YARDSTICKS, seed=0)


def test_the_slope_of_the_mismatch(gradient: PatchGradient, patch: tuple[Any, Any]) -> None:
    image, _ = patch
    wanted = gradient(image)
    random = np.random.default_rng(7)
    other, direction = random.normal(size=image.shape), random.normal(size=image.shape)
    value, slope = gradient.mismatch(other, wanted)
    step = 1e-3  # the loss rounds somewhere to float32
    ahead, behind = (gradient.mismatch(other + sign * step * direction, wanted)[0] for sign in (1, -1))
    assert (slope * direction).sum() == pytest.approx((ahead - behind) / (2 * step), rel=0.02)
    assert value > 0.01
    assert gradient.mismatch(image, 7 * wanted)[0] == pytest.approx(0, abs=1e-12), "its length does not matter"


def test_a_patch_lies_in_the_middle_of_what_the_network_takes(patch: tuple[Any, Any]) -> None:
    image, label = patch
    deeper = PatchGradient(network((4, 8, 8, 8)), LOSS, label, (16, 16, 16))
    whole = np.pad(image, ((0, 0), (2, 2), (2, 2), (2, 2)))
    as_it_is = PatchGradient(network((4, 8, 8, 8)), LOSS, np.pad(label, 2), (16, 16, 16))
    assert np.allclose(deeper(image), as_it_is(whole))


def test_the_raw_gradient_is_the_image(gradient: PatchGradient, patch: tuple[Any, Any]) -> None:
    image, _ = patch
    assert attacks.correlation(attacks.invert(gradient, gradient(image), image.shape, 120, seed=0), image) >= 0.99


def test_a_released_update_tells_no_more_than_noise(inverted: Inversion, patch: tuple[Any, Any]) -> None:
    assert inverted.within
    assert inverted.interval[1] < 0.8 < inverted.raw
    assert len(inverted.noise) == YARDSTICKS
    assert attacks.correlation(inverted.of_raw, patch[0]) == inverted.raw


def test_a_released_step_tells_no_more_than_noise(
    gradient: PatchGradient, patch: tuple[Any, Any], inverted: Inversion
) -> None:
    image, _ = patch
    true = gradient(image)
    released = SumRelease(len(true), Settings(1.0, 1.0, 8, 1.0), noise=SeededNoise(1))([true])
    found = attacks.correlation(attacks.invert(gradient, released, image.shape, ITERATIONS, seed=1), image)
    assert inverted.interval[0] <= found <= inverted.interval[1]


def test_clipping_alone_hides_nothing(gradient: PatchGradient, patch: tuple[Any, Any], inverted: Inversion) -> None:
    """The mutant without noise: what leaves then is the image."""
    image, _ = patch
    true = gradient(image)
    for release in (
        UpdateRelease(Gate(1e-3, 0.0, len(true)), SeededNoise()),
        SumRelease(len(true), Settings(1e-3, 0.0, 8, 1.0)),
    ):
        clipped = release(true[None])
        assert np.linalg.norm(clipped) <= 1e-3
        assert clipped @ true / np.linalg.norm(clipped) / np.linalg.norm(true) > 0.999999
    found = attacks.correlation(attacks.invert(gradient, clipped, image.shape, ITERATIONS, seed=0), image)
    assert found == pytest.approx(inverted.raw, abs=0.03)
    assert found > inverted.interval[1]


def test_one_more_of_a_kind_lies_within_as_often_as_said() -> None:
    random = np.random.default_rng(8)
    inside = 0
    for _ in range(500):
        *values, another = random.normal(size=6)
        low, high = attacks.one_more(values, 0.9)
        inside += low <= another <= high
    assert 420 <= inside <= 478, "90% of 500 are 450"


def test_an_even_image_correlates_with_nothing() -> None:
    assert attacks.correlation(np.zeros((2, 2)), np.arange(4.0).reshape(2, 2)) == 0
    assert attacks.correlation(np.arange(4.0) * 3 + 1, np.arange(4.0)) == pytest.approx(1)


# --- membership -----------------------------------------------------------------------------------------------------

GAMES = 400


@pytest.fixture(scope="module")
def gradients() -> NDArray[np.float32]:
    """Of 16 patients, each with a patch."""
    random, one = np.random.default_rng(9), network()
    found = []
    for _ in range(16):
        image, label = blob(TASK, 16, random)
        tensors = torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(label)[None, None]
        found.append(attacks.gradient_of(one, LOSS, *tensors).numpy())
    return np.stack(found)


def areas(
    gradients: NDArray[np.float32], release: UpdateRelease | SumRelease
) -> tuple[lower_bounds.Area, lower_bounds.Area]:
    scores = attacks.membership(gradients, 4, release, GAMES, seed=0)
    return lower_bounds.area_under_curve(*scores.raw), lower_bounds.area_under_curve(*scores.released)


@pytest.mark.parametrize(("sigma", "mechanism_of"), [(2.0, "gaussian-update"), (1.0, "dp-sgd"), (4.0, "dp-sgd")])
def test_members_of_what_is_released_are_hidden(
    gradients: NDArray[np.float32], sigma: float, mechanism_of: str
) -> None:
    values, clip_norm = gradients.shape[1], float(np.linalg.norm(gradients, axis=1).min())
    if mechanism_of == "dp-sgd":
        leaves: Any = SumRelease(values, Settings(clip_norm, sigma, 8, 1.0), noise=SeededNoise())
        mu = 1 / sigma
    else:
        leaves, mu = UpdateRelease(Gate(clip_norm, sigma, values), SeededNoise()), 2 / sigma
    raw, released = areas(gradients, leaves)
    assert raw.area >= 0.75
    allowed = lower_bounds.gaussian_area(mu)
    assert released.low <= allowed
    if mechanism_of == "dp-sgd":
        assert released.area == pytest.approx(allowed, abs=0.06), "the attack is a good one"


def test_membership_sees_a_third_of_the_noise(gradients: NDArray[np.float32]) -> None:
    values, clip_norm = gradients.shape[1], float(np.linalg.norm(gradients, axis=1).min())
    leaves = SumRelease(values, Settings(clip_norm, 4.0, 8, 1.0), noise=SeededNoise(part=1 / 3))
    _, released = areas(gradients, leaves)
    assert released.low > lower_bounds.gaussian_area(1 / 4.0)


def test_membership_sees_that_nothing_is_clipped(
    gradients: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    unclipped(monkeypatch)
    values, clip_norm = gradients.shape[1], float(np.linalg.norm(gradients, axis=1).min())
    leaves = SumRelease(values, Settings(clip_norm, 4.0, 8, 1.0), noise=SeededNoise())
    _, released = areas(attacks.EXCESS * gradients, leaves)
    assert released.low > lower_bounds.gaussian_area(1 / 4.0)


def test_games_are_played_as_often_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    release = UpdateRelease(Gate(1.0, 1.0, 6), SeededNoise())

    def noted(self: UpdateRelease, part: Any) -> NDArray[np.float64]:
        if self is release:
            seen.append(len(part))
        return np.asarray(part).sum(axis=0, dtype=np.float64)

    monkeypatch.setattr(UpdateRelease, "__call__", noted)
    scores = attacks.membership(np.eye(6, dtype=np.float32), 3, release, 50, seed=0)
    assert seen == [2, 3] * 50, "without the patient the others alone"
    for strangers, members in (scores.raw, scores.released):
        assert strangers.tolist() == [0] * 50
        assert members == pytest.approx(1)
