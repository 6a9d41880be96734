"""The accountant against what somebody else would compute: formulas and integrals written down here anew."""

import functools
import math
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    UnsupportedEventError,
    get_epsilon_gaussian,
    pld,
    rdp,
)
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


SPAN, CELLS = 60.0, 1 << 18


def spectra(sigma: float, rate: float, steps: int, relation: str = "add-remove") -> list[np.ndarray]:
    """Fourier transforms of the privacy loss of a Poisson-sampled Gaussian, once for each direction.

    The loss of one step is tabulated on a fine grid, pessimistic in neither direction; composing is multiplying.
    Add/remove has two directions; replace-one is the mixture pair (1-q) N(0) + q N(1) against (1-q) N(0) + q N(-1).
    """
    x = np.linspace(-1 - 12 * sigma, 1 + 12 * sigma, 400_001)

    def normal(mean: float) -> np.ndarray:
        return np.exp(-((x - mean) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    mixture = (1 - rate) * normal(0) + rate * normal(1)
    pairs = {
        "add-remove": [(mixture, normal(0)), (normal(0), mixture)],
        "replace-one": [(mixture, (1 - rate) * normal(0) + rate * normal(-1))],
    }[relation]
    found = []
    for upper, lower in pairs:
        losses = np.log(upper) - np.log(lower)
        mass = upper * (x[1] - x[0])
        # Linear between the two neighbouring cells: the mean of each loss is kept.
        position = np.clip((losses + SPAN) / (2 * SPAN / CELLS), 0, CELLS - 2)
        whole = position.astype(np.int64)
        table = np.bincount(whole, mass * (whole + 1 - position), CELLS)
        table += np.bincount(whole + 1, mass * (position - whole), CELLS)
        found.append(np.fft.rfft(np.roll(table, -CELLS // 2)) ** steps)
    return found


def epsilon_of(composed: list[np.ndarray], delta: float) -> float:
    """The epsilon at which the worse direction's E[(1 - exp(epsilon - loss))+] falls to delta."""
    worst = 0.0
    grid = (np.arange(CELLS) - CELLS // 2) * (2 * SPAN / CELLS)
    for spectrum in composed:
        masses = np.roll(np.fft.irfft(spectrum, CELLS), CELLS // 2)

        def excess(epsilon: float, masses: np.ndarray = masses) -> float:
            above = grid > epsilon
            return float(np.sum(masses[above] * -np.expm1(epsilon - grid[above]))) - delta

        if excess(0.0) > 0:
            worst = max(worst, float(optimize.brentq(excess, 0, SPAN)))
    return worst


def integrated_epsilon(sigma: float, rate: float, steps: int, delta: float, relation: str = "add-remove") -> float:
    """Epsilon of a Poisson-sampled Gaussian by numerical integration and one FFT."""
    return epsilon_of(spectra(sigma, rate, steps, relation), delta)


def integrated_renyi(sigma: float, rate: float, order: float) -> float:
    """The Renyi divergence of one sampled step, worse of both directions, as an integral over its outcomes."""
    x = np.linspace(-1 - 40 * sigma - order, 1 + 40 * sigma + order, 200_001)
    base = -(x**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    loss = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * sigma**2))
    worst = 0.0
    for exponent in (base + order * loss, base + (1 - order) * loss):
        top = float(exponent.max())
        integral = top + math.log(float(np.sum(np.exp(exponent - top))) * (x[1] - x[0]))
        worst = max(worst, integral / (order - 1))
    return worst


# --- q = 1: the closed form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [1e-5, 1e-6, 1e-9])
@pytest.mark.parametrize("sigma", [0.005, 0.05, 0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("steps", [1, 16])
def test_the_closed_form_agrees_with_an_independent_one(sigma: float, delta: float, steps: int) -> None:
    expected = balle_wang_epsilon(sigma / math.sqrt(steps), delta)
    assert accountant.sequence_epsilon([Release(sigma, 1.0, steps)], delta) == pytest.approx(expected, rel=1e-6)
    assert accountant.cost(sigma, 1.0, steps, delta).epsilon == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("delta", [0.3, 1e-5, 1e-9, 1e-30])
@pytest.mark.parametrize("sigma", [0.005, 0.07, 0.5, 1.0, 3.0, 40.0, 1e5])
def test_closed_forms_are_those_of_dp_accounting(sigma: float, delta: float) -> None:
    """They are written anew so that a participation need not import the whole of it."""
    expected = get_epsilon_gaussian(sigma, delta)
    assert accountant.sequence_epsilon([Release(sigma)], delta) == pytest.approx(expected, rel=1e-9, abs=1e-11)
    for order in (1.05, 2.0, 17.3, 500.0):
        divergence = accountant.renyi(Release(sigma), order)
        expected = rdp.compute_epsilon([order], [divergence], delta)[0]
        assert accountant.filter_epsilon(divergence, order, delta) == pytest.approx(expected, rel=1e-12)


def test_without_sampling_the_price_comes_without_dp_accounting() -> None:
    """It imports all of scipy's statistics, which is most of what a participation without training takes."""
    probe = (
        "import sys; from fedsite.privacy import accountant; release = accountant.gaussian_update(8.0);"
        " accountant.sequence_epsilon([release], 1e-6);"
        " accountant.filter_epsilon(accountant.renyi(release, 3.0), 3.0, 1e-6);"
        " print({'dp_accounting', 'scipy.stats'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_a_tiny_sigma_is_priced_at_once() -> None:
    """PLD would take minutes and gigabytes here: the demo's sites run at such settings."""
    accountant.cost(1.0, 1.0, 1, 1e-6)  # the import
    started = time.process_time()
    found = accountant.cost(0.005, 1.0, 16, 1e-6)
    order = accountant.best_order(found.epsilon, 1e-6)
    accountant.filter_epsilon(accountant.renyi(Release(0.005, 1.0, 16), order), order, 1e-6)
    assert time.process_time() - started < 5
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


SETTINGS = [  # sigma, q, steps, delta: from one step to a whole federation, from hardly any noise to a lot of it
    *((sigma, 0.1, steps, 1e-5) for sigma in (0.7, 1.0, 2.0, 4.0) for steps in (1, 10, 200)),
    *((sigma, 0.04, steps, 1e-6) for sigma in (0.6, 1.0, 1.5) for steps in (20, 1000)),
    *((sigma, 0.5, steps, 1e-6) for sigma in (1.0, 2.0, 8.0) for steps in (4, 50)),
    *((sigma, 0.01, 5000, delta) for sigma in (0.8, 1.2) for delta in (1e-5, 1e-7)),
    *((5.0, rate, 300, 1e-6) for rate in (0.2, 0.9)),
]


@pytest.mark.parametrize(("sigma", "rate", "steps", "delta"), SETTINGS)
def test_sampled_releases_agree_with_numerical_integration(sigma: float, rate: float, steps: int, delta: float) -> None:
    expected = integrated_epsilon(sigma, rate, steps, delta)
    found = accountant.sequence_epsilon([Release(sigma, rate, steps)], delta)
    assert found == pytest.approx(expected, rel=0.01)


def test_replace_one_agrees_with_numerical_integration() -> None:
    expected = integrated_epsilon(1.5, 0.2, 8, 1e-5, "replace-one")
    assert cost(1.5, 0.2, 8, 1e-5, "replace-one").epsilon == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("order", [1.05, 1.5, 2.0, 4.3137, 9.0, 27.5])
@pytest.mark.parametrize(("sigma", "rate"), [(0.6, 0.02), (1.0, 0.1), (1.3, 0.5), (4.0, 0.04), (10.0, 0.9)])
def test_the_filters_divergence_agrees_with_numerical_integration(sigma: float, rate: float, order: float) -> None:
    expected = integrated_renyi(sigma, rate, order)
    found = accountant.renyi(Release(sigma, rate), order)
    assert found == pytest.approx(expected, rel=0.01)
    assert found >= expected * (1 - 1e-6), "what binds is never below"


def test_a_sampled_sequence_agrees_with_its_price() -> None:
    release = Release(1.0, 0.1, 5)
    together = accountant.sequence_epsilon([release, release], 1e-5)
    assert together == pytest.approx(cost(1.0, 0.1, 10, 1e-5, "add-remove").epsilon, rel=1e-3)


def test_releases_of_different_kinds_agree_with_numerical_integration() -> None:
    """Months of one ledger: two plans of dp-sgd, and rounds whose whole update was noised."""
    releases = [Release(1.2, 0.05, 60), Release(2.0, 0.2, 30), Release(6.0), Release(1.2, 0.05, 40), Release(9.0)]
    parts = [spectra(1.2, 0.05, 100), spectra(2.0, 0.2, 30)]
    parts.append(spectra(1 / math.sqrt(1 / 6.0**2 + 1 / 9.0**2), 1 - 1e-12, 1))
    composed = [functools.reduce(np.multiply, direction) for direction in zip(*parts, strict=True)]
    found = accountant.sequence_epsilon(releases, 1e-6)
    assert found == pytest.approx(epsilon_of(composed, 1e-6), rel=0.01)


def test_more_kinds_than_pld_can_compose_in_time_are_bounded() -> None:
    random = np.random.default_rng(0)
    releases = [Release(float(random.uniform(1, 3)), float(random.uniform(0.01, 0.1)), 3) for _ in range(24)]
    assert len(accountant._merged(releases)) > accountant.MOST_KINDS
    parts = [spectra(one.sigma, one.sampling_rate, one.steps) for one in releases]
    composed = [functools.reduce(np.multiply, direction) for direction in zip(*parts, strict=True)]
    exact = epsilon_of(composed, 1e-6)
    assert exact * 0.999 <= accountant.sequence_epsilon(releases, 1e-6) < 1.25 * exact


def test_releases_are_merged_by_kind() -> None:
    releases = [Release(2.0, 0.1, 5), Release(3.0), Release(2.0, 0.1, 7), Release(4.0, 1.0, 2), Release(2.0, 0.2)]
    sampled, other, whole = accountant._merged(releases)
    assert (sampled, other) == (Release(2.0, 0.1, 12), Release(2.0, 0.2))
    assert whole.sigma == pytest.approx(1 / math.sqrt(1 / 9 + 2 / 16))
    assert (whole.sampling_rate, whole.steps) == (1, 1)


@pytest.mark.parametrize("order", [1.02, 1.5, 4.3137, 7.9])
def test_no_plan_makes_the_filter_take_memory(order: float) -> None:
    tracemalloc.start()
    found = accountant.renyi(Release(accountant.LEAST_NOISE, 0.1), order)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    # With hardly any noise the patient is recognised whenever sampled: the divergence of being sampled, unsampled.
    whole = order / (2 * accountant.LEAST_NOISE**2) + order / (order - 1) * math.log(0.1)
    assert found == pytest.approx(whole, rel=1e-4)


def test_equal_releases_are_composed_once_and_their_curves_are_kept() -> None:
    releases = [Release(1.1, 0.03, 50) for _ in range(400)]
    accountant._curve.cache_clear()
    first = accountant.sequence_epsilon(releases, 1e-6)
    assert accountant._curve.cache_info().misses == 1
    assert accountant.sequence_epsilon(releases, 1e-6) == first
    assert accountant._curve.cache_info().misses == 1
    accountant._renyi_of_step.cache_clear()
    assert len({accountant.renyi(release, 4.2) for release in releases}) == 1
    assert accountant._renyi_of_step.cache_info().misses == 1


@pytest.mark.parametrize("release", [Release(0.01, 0.5, 100), Release(0.002, 0.001, 1), Release(0.05, 0.1, 20_000)])
def test_hardly_any_noise_is_priced_without_gigabytes(release: Release) -> None:
    """On dp-accounting's own grid of 1e-4 these losses would be hundreds of millions of cells."""
    accountant.sequence_epsilon([Release(1.0, 0.5)], 1e-6)  # the import
    tracemalloc.start()
    started = time.process_time()
    found = accountant.sequence_epsilon([release], 1e-6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - started < 30  # about two, on a quiet machine and untraced
    assert peak < 400e6
    order = accountant.best_order(max(found, 1.0), 1e-6)
    assert 0 < found <= accountant.filter_epsilon(accountant.renyi(release, order), order, 1e-6) * 1.001


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


def test_trap_the_library_itself_under_replace_one() -> None:
    """What the three tests above guard against is still there in the version that is installed."""
    other = NeighboringRelation.REPLACE_ONE
    with pytest.raises(UnsupportedEventError):
        rdp.RdpAccountant([4.0], other).compose(PoissonSampledDpEvent(0.2, GaussianDpEvent(1.5)))
    ignored = rdp.RdpAccountant([4.0], other)
    ignored.compose(GaussianDpEvent(2.0))
    assert ignored.rdp[0] == pytest.approx(4.0 / (2 * 2.0**2)), "a change of 2 would cost four times as much"
    whole = pld.PLDAccountant(other)
    whole.compose(GaussianDpEvent(2.0))
    assert whole.get_epsilon(1e-6) == pytest.approx(balle_wang_epsilon(1.0, 1e-6), rel=0.01)


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(0.7, 0.01, 100), (1.0, 0.02, 50), (0.6, 0.005, 500)])
def test_trap_the_central_limit_is_no_bound(sigma: float, rate: float, steps: int) -> None:
    """Gaussian differential privacy in the limit (Bu et al. 2020): mu = q sqrt(T (exp(1/sigma^2) - 1)). It flatters."""
    mu = rate * math.sqrt(steps * math.expm1(1 / sigma**2))
    flattering = balle_wang_epsilon(1 / mu, 1e-6)
    exact = integrated_epsilon(sigma, rate, steps, 1e-6)
    assert flattering < 0.97 * exact
    assert accountant.sequence_epsilon([Release(sigma, rate, steps)], 1e-6) > 0.999 * exact


# --- how much noise -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(threshold=st.floats(1e-5, 1e6))
def test_the_least_noise_is_enough_and_hardly_more(threshold: float) -> None:
    found = accountant.least_noise(lambda noise: noise >= threshold)
    if found is None:
        assert threshold > accountant.MOST_NOISE / 2
    else:
        assert max(threshold, accountant.LEAST_NOISE) <= found <= max(threshold, accountant.LEAST_NOISE) * 1.0021
        assert float(f"{found:.4g}") == found or found == accountant.LEAST_NOISE


def test_no_noise_may_be_enough() -> None:
    assert accountant.least_noise(lambda noise: False) is None


def test_a_mechanism_that_nobody_knows_has_no_price() -> None:
    assert accountant.release_of("dp-sgd", 2.0, 0.1, 7) == Release(2.0, 0.1, 7)
    assert accountant.release_of("gaussian-update", 2.0) == Release(1.0)
    with pytest.raises(ValueError, match="no mechanism is called laplace"):
        accountant.release_of("laplace", 2.0)


def test_the_filters_divergence_and_epsilon_are_inverse() -> None:
    for epsilon in (0.5, 8.0, 300.0):
        divergence = accountant.filter_divergence(epsilon, 4.3, 1e-6)
        assert accountant.filter_epsilon(max(divergence, 1e-3), 4.3, 1e-6) == pytest.approx(epsilon) or divergence < 0


def test_the_accountant_is_named_with_its_version() -> None:
    name, _, number = accountant.accountant_version().partition(" ")
    assert name == "dp-accounting"
    assert number[0].isdigit()
