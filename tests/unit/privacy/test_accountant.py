"""The accountant against what somebody else would compute: formulas and integrals written down here anew."""

import functools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import log_ndtr

from fedsite.privacy import accountant
from fedsite.privacy.accountant import Release

cost = functools.cache(accountant.cost)  # sampled prices take seconds, and several tests look at one


def balle_wang_delta(sigma: float, epsilon: float) -> float:
    """delta(epsilon) of a Gaussian of sensitivity 1 (Balle and Wang 2018, theorem 8), in logarithms."""
    first = float(log_ndtr(1 / (2 * sigma) - epsilon * sigma))
    second = epsilon + float(log_ndtr(-1 / (2 * sigma) - epsilon * sigma))
    return math.exp(first) * -math.expm1(second - first) if second < first else 0.0


def balle_wang_epsilon(sigma: float, delta: float) -> float:
    """The epsilon at which `balle_wang_delta` falls to delta, by bisection."""
    if balle_wang_delta(sigma, 0.0) <= delta:
        return 0.0
    high = 1.0
    while balle_wang_delta(sigma, high) > delta:
        high *= 2
    return float(optimize.brentq(lambda epsilon: balle_wang_delta(sigma, epsilon) - delta, 0, high, xtol=1e-12))


def integrated_epsilon(sigma: float, rate: float, steps: int, delta: float, relation: str) -> float:
    """Epsilon of a Poisson-sampled Gaussian by numerical integration and one FFT, pessimistic in neither direction.

    The privacy loss of one step is tabulated on a fine grid, composed by Fourier transform, and delta(epsilon) is the
    expectation of (1 - exp(epsilon - loss))+. Add/remove takes the worse of the two directions; replace-one is the
    mixture pair (1-q) N(0) + q N(1) against (1-q) N(0) + q N(-1).
    """
    x = np.linspace(-1 - 12 * sigma, 1 + 12 * sigma, 400_001)

    def normal(mean: float) -> np.ndarray:
        return np.exp(-((x - mean) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    mixture = (1 - rate) * normal(0) + rate * normal(1)
    pairs = {
        "add-remove": [(mixture, normal(0)), (normal(0), mixture)],
        "replace-one": [(mixture, (1 - rate) * normal(0) + rate * normal(-1))],
    }[relation]
    worst = 0.0
    for upper, lower in pairs:
        losses = np.log(upper) - np.log(lower)
        mass = upper * (x[1] - x[0])
        span, size = 60.0, 1 << 18
        cell = 2 * span / size
        # Linear between the two neighbouring cells: the mean of each loss is kept.
        position = np.clip((losses + span) / cell, 0, size - 2)
        whole = position.astype(np.int64)
        table = np.bincount(whole, mass * (whole + 1 - position), size)
        table += np.bincount(whole + 1, mass * (position - whole), size)
        rolled = np.roll(table, -size // 2)
        composed = np.roll(np.fft.irfft(np.fft.rfft(rolled) ** steps, size), size // 2)
        grid = (np.arange(size) - size // 2) * cell

        def excess(epsilon: float, grid: np.ndarray = grid, composed: np.ndarray = composed) -> float:
            above = grid > epsilon
            return float(np.sum(composed[above] * -np.expm1(epsilon - grid[above]))) - delta

        if excess(0.0) > 0:
            worst = max(worst, float(optimize.brentq(excess, 0, span)))
    return worst


# --- q = 1: the closed form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [1e-5, 1e-6, 1e-9])
@pytest.mark.parametrize("sigma", [0.005, 0.05, 0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("steps", [1, 16])
def test_the_closed_form_agrees_with_an_independent_one(sigma: float, delta: float, steps: int) -> None:
    expected = balle_wang_epsilon(sigma / math.sqrt(steps), delta)
    assert accountant.sequence_epsilon([Release(sigma, 1.0, steps)], delta) == pytest.approx(expected, rel=1e-6)
    assert accountant.cost(sigma, 1.0, steps, delta).epsilon == pytest.approx(expected, rel=1e-6)


def test_a_tiny_sigma_is_priced_at_once() -> None:
    """PLD would take minutes and gigabytes here: the demo's sites run at such settings."""
    accountant.cost(1.0, 1.0, 1, 1e-6)  # the import
    started = time.monotonic()
    found = accountant.cost(0.005, 1.0, 16, 1e-6)
    order = accountant.best_order(found.epsilon, 1e-6)
    accountant.filter_epsilon(accountant.renyi(Release(0.005, 1.0, 16), order), order, 1e-6)
    assert time.monotonic() - started < 0.5
    assert found.epsilon > 100_000
    assert found.epsilon <= found.epsilon_rdp < 1.02 * found.epsilon


def test_a_different_sequence_of_the_same_noises_costs_the_same() -> None:
    one = accountant.sequence_epsilon([Release(3.0), Release(5.0), Release(3.0)], 1e-6)
    other = accountant.sequence_epsilon([Release(3.0, steps=2), Release(5.0)], 1e-6)
    assert one == pytest.approx(other, rel=1e-12)


def test_nothing_released_costs_nothing_and_no_delta_pays_for_nothing() -> None:
    assert accountant.sequence_epsilon([], 1e-6) == 0
    assert accountant.filter_epsilon(0.0, 2.0, 1e-6) == 0
    assert accountant.sequence_epsilon([Release(1.0)], 0.0) == math.inf
    assert accountant.filter_epsilon(1.0, 2.0, -1e-9) == math.inf


# --- the filter -----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    sigmas=st.lists(st.floats(min_value=0.02, max_value=200), min_size=1, max_size=12),
    exponent=st.floats(min_value=-10, max_value=-3),
    budget=st.floats(min_value=0.05, max_value=2000),
)
def test_the_filter_is_never_below_the_exact_epsilon(sigmas: list[float], exponent: float, budget: float) -> None:
    """The binding number must hold for the sequence that did happen, whatever order the ledger was made with."""
    delta = 10**exponent
    order = accountant.best_order(budget, delta)
    divergence = sum(accountant.renyi(Release(sigma), order) for sigma in sigmas)
    exact = balle_wang_epsilon(1 / math.sqrt(sum(1 / sigma**2 for sigma in sigmas)), delta)
    assert accountant.filter_epsilon(divergence, order, delta) >= exact * (1 - 1e-9)


@pytest.mark.parametrize("budget", [1.0, 8.0, 100.0, 500_000.0])
def test_the_filter_wastes_little_of_a_budget_that_is_used_up(budget: float) -> None:
    order = accountant.best_order(budget, 1e-6)
    low, high = 1e-5, 1e5
    for _ in range(200):
        sigma = math.sqrt(low * high)
        spent = accountant.filter_epsilon(accountant.renyi(Release(sigma), order), order, 1e-6)
        low, high = (sigma, high) if spent > budget else (low, sigma)
    assert 0.85 * budget < balle_wang_epsilon(high, 1e-6) <= budget


@pytest.mark.parametrize(("budget", "delta"), [(0.1, 1e-6), (1.0, 1e-5), (8.0, 1e-6), (300.0, 1e-9)])
def test_the_chosen_order_is_better_than_its_neighbours(budget: float, delta: float) -> None:
    def least_noise(order: float) -> float:
        return float(
            optimize.brentq(
                lambda log_sigma: (
                    accountant.filter_epsilon(accountant.renyi(Release(math.exp(log_sigma)), order), order, delta)
                    - budget
                ),
                -8,
                12,
            )
        )

    best = accountant.best_order(budget, delta)
    chosen = least_noise(best)
    for factor in (0.8, 1.25):
        neighbour = 1 + (best - 1) * factor
        if accountant.LOWEST_ORDER <= neighbour <= accountant.HIGHEST_ORDER:
            assert chosen <= least_noise(neighbour) + 1e-6


def test_the_order_stays_where_the_conversion_has_answers() -> None:
    for budget in (1e-3, 1e9):
        assert accountant.LOWEST_ORDER <= accountant.best_order(budget, 1e-6) <= accountant.HIGHEST_ORDER


def test_a_clipped_update_moves_by_twice_the_clip_norm() -> None:
    """One patient can turn a clipped update into its opposite: half the noise multiplier counts."""
    assert accountant.gaussian_update(4.0) == Release(2.0)
    assert accountant.renyi(accountant.gaussian_update(4.0), 3.0) == pytest.approx(3 / (2 * 2**2))
    replaced = accountant.cost(4.0, 1.0, 1, 1e-6, "replace-one").epsilon
    assert replaced == pytest.approx(accountant.sequence_epsilon([accountant.gaussian_update(4.0)], 1e-6), rel=1e-9)


# --- sampled releases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "relation"),
    [
        (1.0, 0.1, 10, "add-remove"),
        (2.0, 0.5, 4, "add-remove"),
        (1.5, 0.2, 8, "replace-one"),
    ],
)
def test_sampled_releases_agree_with_numerical_integration(
    sigma: float, rate: float, steps: int, relation: accountant.Relation
) -> None:
    delta = 1e-5
    expected = integrated_epsilon(sigma, rate, steps, delta, relation)
    assert cost(sigma, rate, steps, delta, relation).epsilon == pytest.approx(expected, rel=0.01)


def test_a_sampled_sequence_agrees_with_its_price() -> None:
    release = Release(1.0, 0.1, 5)
    together = accountant.sequence_epsilon([release, release], 1e-5)
    assert together == pytest.approx(cost(1.0, 0.1, 10, 1e-5, "add-remove").epsilon, rel=1e-3)


def test_the_sampled_filter_is_an_upper_bound() -> None:
    release = Release(1.0, 0.1, 10)
    exact = integrated_epsilon(1.0, 0.1, 10, 1e-5, "add-remove")
    for order in (2.0, 5.0, 12.5):
        assert accountant.filter_epsilon(accountant.renyi(release, order), order, 1e-5) >= exact
    assert cost(1.0, 0.1, 10, 1e-5, "add-remove").epsilon_rdp >= exact


# --- the library's traps, pinned ------------------------------------------------------------------------------------


def test_trap_pld_wants_the_whole_sigma_under_replace_one() -> None:
    """Near q = 1 the sampled answer must meet the closed form at half the noise multiplier, not at a quarter."""
    nearly = accountant.cost(2.0, 1 - 1e-7, 1, 1e-6, "replace-one").epsilon
    assert nearly == pytest.approx(balle_wang_epsilon(2.0 / 2, 1e-6), rel=0.01)
    assert nearly < 0.7 * balle_wang_epsilon(2.0 / 4, 1e-6)


def test_trap_rdp_has_no_sampled_answer_under_replace_one() -> None:
    assert cost(1.5, 0.2, 8, 1e-5, "replace-one").epsilon_rdp is None
    assert cost(1.0, 0.1, 10, 1e-5, "add-remove").epsilon_rdp is not None


def test_trap_rdp_ignores_the_factor_two_under_replace_one_at_full_rate() -> None:
    one, replaced = (accountant.cost(2.0, 1.0, 1, 1e-6, relation) for relation in ("add-remove", "replace-one"))
    assert replaced.epsilon_rdp == pytest.approx(accountant.cost(1.0, 1.0, 1, 1e-6).epsilon_rdp)
    assert replaced.epsilon_rdp >= replaced.epsilon > one.epsilon_rdp


def test_the_accountant_is_named_with_its_version() -> None:
    name, _, number = accountant.accountant_version().partition(" ")
    assert name == "dp-accounting"
    assert number[0].isdigit()
