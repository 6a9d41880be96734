"""What attacks show: bounds that hold as often as they say, and that grow with what there is to see."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsite.privacy import accountant, lower_bounds
from fedsite.privacy.accountant import Release

Floats = NDArray[np.float64]


def gaussian(random: np.random.Generator, mu: float, each: int) -> tuple[Floats, Floats]:
    """The evidence of a Gaussian mechanism's two worlds."""
    return random.normal(-mu / 2, 1, each), random.normal(mu / 2, 1, each)


def tosses(random: np.random.Generator, epsilon: float, canaries: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Randomised response, the most that epsilon allows: each coin is told truly with that chance."""
    included = random.random(canaries) < 0.5
    honest = random.random(canaries) < 1 / (1 + math.exp(-epsilon))
    return np.where(included == honest, 1.0, -1.0) * random.uniform(0.5, 1.5, canaries), included


def test_the_bound_of_one_run_is_the_papers() -> None:
    """Steinke, Nasr and Jagielski 2023, appendix D: 75 of 100 guesses right, 1000 canaries, delta 1e-4, 95%."""
    assert lower_bounds._largest_refuted(1000, 100, 75, 1e-4, 0.05) == pytest.approx(0.673, abs=5e-4)


def test_fewer_right_guesses_or_a_larger_delta_show_less() -> None:
    shown = [lower_bounds._largest_refuted(1000, 100, right, 1e-5, 0.05) for right in (50, 60, 75, 90, 100)]
    assert shown[0] == 0
    assert shown == sorted(shown)
    by_delta = [lower_bounds._largest_refuted(1000, 100, 90, delta, 0.05) for delta in (0, 1e-6, 1e-4, 1e-2)]
    assert by_delta == sorted(by_delta, reverse=True)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_one_run_seldom_shows_more_than_there_is(epsilon: float) -> None:
    random = np.random.default_rng(1)
    found = [lower_bounds.one_run(*tosses(random, epsilon, 400), delta=0).epsilon for _ in range(40)]
    assert sum(one > epsilon for one in found) <= 5, "more often than at 95% confidence"
    assert max(found) > epsilon / 2


def test_one_run_chooses_how_much_to_guess() -> None:
    random = np.random.default_rng(2)
    included = random.random(2000) < 0.5
    few_are_told = np.where(np.arange(2000) < 60, 9.0, 0.1) * np.where(included, 1, -1)
    few_are_told[60:] = random.normal(0, 0.1, 1940)
    bound = lower_bounds.one_run(few_are_told, included, 1e-6)
    assert bound.guesses == bound.right == 60
    assert bound.epsilon > 2


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_two_worlds_show_most_of_what_there_is_and_no_more(mu: float) -> None:
    random = np.random.default_rng(3)
    there = accountant.sequence_epsilon([Release(1 / mu)], 1e-6)
    found = [lower_bounds.two_worlds(*gaussian(random, mu, 1500), delta=1e-6).epsilon for _ in range(50)]
    assert there / 3 < np.median(found) < there
    assert max(found) <= there


def test_two_worlds_without_a_difference_show_nothing() -> None:
    random = np.random.default_rng(4)
    bound = lower_bounds.two_worlds(*gaussian(random, 0.0, 500), delta=1e-6)
    assert bound.epsilon == 0
    assert bound.guesses == 1000


def test_two_worlds_that_are_told_apart_always_show_much() -> None:
    bound = lower_bounds.two_worlds(np.full(1500, -1.0), np.full(1500, 1.0), delta=1e-6)
    assert bound.right == bound.guesses == 3000
    assert 20 < bound.epsilon < math.inf


@pytest.mark.parametrize(("rate", "steps", "sigma"), [(1.0, 4, 3.0), (0.1, 20, 1.0)])
def test_the_best_attacker_is_as_good_as_stated(rate: float, steps: int, sigma: float) -> None:
    """Against the likelihood ratio itself, tried out."""
    random, cases = np.random.default_rng(5), 20_000
    sampled = random.random((steps, cases)) < rate
    with np.errstate(divide="ignore"):
        left_out = np.log1p(-rate)

    def evidence(within: bool) -> Floats:
        seen = sigma * random.standard_normal((steps, cases)) + (sampled if within else 0)
        return np.logaddexp(left_out, math.log(rate) + (2 * seen - 1) / (2 * sigma**2)).sum(axis=0)

    without, within = evidence(False), evidence(True)
    right = ((without <= 0).mean() + (within > 0).mean()) / 2
    stated = Release(sigma, rate, steps)
    assert right == pytest.approx((1 + accountant.advantage(stated)) / 2, abs=0.01)
    found = lower_bounds.accuracy(without, within, stated)
    assert found.low <= found.allowed
    assert found.right / found.guesses == pytest.approx(found.allowed, abs=0.02)


def test_hardly_any_noise_and_hardly_anything_else() -> None:
    assert accountant.advantage(Release(1e-4, 0.04, 10)) == pytest.approx(1 - 0.96**10)
    assert accountant.advantage(Release(1e5, 0.04, 3)) < 1e-6
    nearly_all, whole = (accountant.advantage(Release(2.0, rate, 4)) for rate in (1 - 1e-9, 1.0))
    assert nearly_all == pytest.approx(whole, rel=1e-3)


def test_accuracy_refutes_less_noise() -> None:
    random = np.random.default_rng(6)
    honest, weak = (lower_bounds.accuracy(*gaussian(random, mu, 1000), Release(2.0)) for mu in (0.5, 1.0))
    assert honest.low <= honest.allowed < weak.low
    assert lower_bounds.accuracy(np.zeros(5), np.ones(5), None).allowed == 1, "what is not private allows anything"


def test_the_area_is_what_counting_pairs_gives() -> None:
    random = np.random.default_rng(7)
    without, within = random.integers(0, 9, 60).astype(float), random.integers(2, 12, 80).astype(float)
    pairs = (within[:, None] > without) + 0.5 * (within[:, None] == without)
    found = lower_bounds.area_under_curve(without, within)
    assert found.area == pytest.approx(pairs.mean())
    rates = lower_bounds.rates(without, within)
    assert rates[0].tolist() == [0, 0]
    assert rates[-1].tolist() == [1, 1]
    assert np.trapezoid(rates[:, 1], rates[:, 0]) == pytest.approx(found.area)


def test_the_bounds_of_an_area_hold_as_often_as_they_say() -> None:
    random, true = np.random.default_rng(8), lower_bounds.gaussian_area(1.0)
    found = [lower_bounds.area_under_curve(*gaussian(random, 1.0, 100), confidence=0.9) for _ in range(300)]
    for missed in (sum(one.low > true for one in found), sum(one.high < true for one in found)):
        assert 10 <= missed <= 55, "10% of 300 are 30"


def test_an_area_of_one_has_no_room() -> None:
    found = lower_bounds.area_under_curve(np.zeros(5), np.ones(5))
    assert (found.area, found.low, found.high) == (1, 1, 1)


@pytest.mark.parametrize("mu", [0.0, 0.7, 3.0])
def test_the_gaussian_curve_and_its_area(mu: float) -> None:
    rates = lower_bounds.gaussian_rates(mu)
    assert np.trapezoid(rates[:, 1], rates[:, 0]) == pytest.approx(lower_bounds.gaussian_area(mu), abs=2e-3)
    random = np.random.default_rng(9)
    found = lower_bounds.area_under_curve(*gaussian(random, mu, 2000))
    assert found.low <= lower_bounds.gaussian_area(mu) <= found.high


def test_without_noise_everything_is_allowed() -> None:
    assert lower_bounds.gaussian_area(math.inf) == 1
    assert (lower_bounds.gaussian_rates(math.inf)[:, 1] == 1).all()
