"""What a release costs, by `dp-accounting`: where steps are sampled, for importing it takes seconds.

What has a closed form, all that a `gaussian-update` needs, is computed here; tests hold it to dp-accounting's figures.

The unit is the patient, the relation add/remove one. A `gaussian-update` clips the whole update to C: one patient
added or removed can move it by 2C, so noise of standard deviation sigma*C is Gaussian(sigma/2) for the patient.
A step of `dp-sgd` moves by C, and only if the patient was sampled: Gaussian(sigma), Poisson-sampled at rate q.
The binding number is the Renyi filter at one fixed order (Feldman and Zrnic 2021), which stays valid when the
server chooses the next release after seeing the last. At q = 1 the closed form of Balle and Wang (2018) is exact;
PLD is never asked there (at small sigma it takes minutes and gigabytes). Where some releases are sampled, PLD (Koskela
et al. 2020; Doroshenko et al. 2022) composes them all, on a grid as coarse as they allow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

Relation = Literal["add-remove", "replace-one"]
Mechanism = Literal["dp-sgd", "gaussian-update"]
LOWEST_ORDER = 1.02  # dp-accounting's conversion answers nothing useful at orders below 1.01
HIGHEST_ORDER = 512.0
SERIES_FROM = 8.0  # the order from which dp-accounting's series is right for orders that are no integers
MOST_OUTCOMES = 1 << 20  # of a noised value that an integral is taken over
_HARDLY_NOISED = 200.0  # an epsilon beyond which PLD's grid has no use
MOST_KINDS = 16  # of releases that PLD composes: each costs seconds
MOST_CELLS, MOST_CELLS_OF_STEP = 1 << 19, 1 << 17  # of a privacy loss on its grid: memory, and seconds
LEAST_NOISE, MOST_NOISE = 2.0**-14, 1e6  # the gate's grid, and what a plan may ask for


@dataclass(frozen=True)
class Release:
    """One application of a noisy mechanism; `sigma` is relative to the patient's sensitivity."""

    sigma: float
    sampling_rate: float = 1.0
    steps: int = 1


@dataclass(frozen=True)
class Cost:
    """The price of a mechanism: closed form or PLD, and the RDP bound (None where RDP has no answer)."""

    epsilon: float
    epsilon_rdp: float | None


def gaussian_update(noise_multiplier: float) -> Release:
    """A clipped, noised update as the ledger counts it: sensitivity 2C, hence half the noise multiplier."""
    return Release(noise_multiplier / 2)


def release_of(mechanism: str, noise_multiplier: float, sampling_rate: float = 1.0, steps: int = 1) -> Release:
    """One round of a mechanism as the ledger counts it. Raises ValueError for one that it does not know."""
    match mechanism:
        case "gaussian-update":
            return gaussian_update(noise_multiplier)
        case "dp-sgd":
            return Release(noise_multiplier, sampling_rate, steps)
    raise ValueError(f"no mechanism is called {mechanism}")


def renyi(release: Release, order: float) -> float:
    """The Renyi divergence of one release at the given order (Mironov 2017; sampled: Mironov et al. 2019)."""
    return release.steps * _renyi_of_step(release.sigma, release.sampling_rate, order)


@lru_cache(maxsize=1 << 16)
def _renyi_of_step(sigma: float, sampling_rate: float, order: float) -> float:
    if sampling_rate == 1:
        return order / (2 * sigma**2)
    if order < SERIES_FROM and order != round(order):
        return _integrated_renyi(sigma, sampling_rate, order)
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant([order])
    accountant.compose(_event(Release(sigma, sampling_rate)))
    return float(accountant.rdp[0])


def _integrated_renyi(sigma: float, sampling_rate: float, order: float) -> float:
    """The same divergence as an integral over outcomes x: E[((1-q) + q exp((2x-1) / (2 sigma^2)))^order], x ~ N(0).

    dp-accounting 0.6 sums a series without the signs that its terms have beyond an order that is no integer: too much
    below order 4, by a half at 1.1, and without an end for some noises. The trapezoidal rule errs by less than rounding
    where an integrand is this smooth, which is added.
    """
    import numpy as np

    # Fine against the noise, and against the bend where the second term takes over; with little noise that bend lies
    # where there is next to nothing, and no plan may make this take memory.
    width = max(min(sigma / 32, sigma**2 / 2), (order + 24 * sigma) / MOST_OUTCOMES)
    x = np.arange(-12 * sigma, order + 12 * sigma, width)
    loss = np.logaddexp(math.log1p(-sampling_rate), math.log(sampling_rate) + (2 * x - 1) / (2 * sigma**2))
    exponents = order * loss - x**2 / (2 * sigma**2)
    top = float(exponents.max())
    total = top + math.log(float(np.exp(exponents - top).sum()) * width / (sigma * math.sqrt(2 * math.pi)))
    return max(total, 0.0) / (order - 1) + 1e-14 / (order - 1)


def filter_epsilon(divergence: float, order: float, delta: float) -> float:
    """The epsilon at `delta` of a total Renyi divergence at one order (Canonne, Kamath and Steinke 2020)."""
    if delta <= 0:
        return math.inf
    if delta**2 + math.expm1(-divergence) >= 0:  # delta alone covers so little (Bretagnolle and Huber 1979)
        return 0.0
    return max(divergence + _conversion(order, delta), 0.0)


def filter_divergence(epsilon: float, order: float, delta: float) -> float:
    """The divergence at which the filter reaches an epsilon: the inverse of `filter_epsilon`."""
    return epsilon - _conversion(order, delta)


def best_order(epsilon: float, delta: float) -> float:
    """The order at which a budget of (epsilon, delta) pays for most Gaussian noise.

    A Gaussian's divergence at order a is a*rho, so the filter admits rho = (epsilon - c(a)) / a with c the cost of
    the conversion at a; the best a is found on a fine grid, since c has no simple inverse.
    """

    def admitted(order: float) -> float:
        return (epsilon - _conversion(order, delta)) / order

    grid = [1 + math.exp(exponent / 80) for exponent in range(-320, 510)]
    best = max((order for order in grid if LOWEST_ORDER <= order <= HIGHEST_ORDER), key=admitted)
    return math.floor(best * 1e4) / 1e4


def sequence_epsilon(releases: Sequence[Release], delta: float) -> float:
    """The tighter epsilon of exactly this sequence, had it been fixed beforehand.

    Closed form when no release is sampled (noises of a sequence add as inverse squares), else PLD. More than
    `MOST_KINDS` kinds of releases would take PLD minutes: then it is the Renyi bound at the order that suits them best.
    """
    if delta <= 0:
        return math.inf
    if not releases:
        return 0.0
    merged = _merged(releases)
    if merged[0].sampling_rate == 1 and len(merged) == 1:
        return _closed_form(merged[0].sigma, delta)
    if len(merged) > MOST_KINDS:
        return _renyi_epsilon(merged, delta)
    return _composed_epsilon(merged, delta, "add-remove")


def advantage(release: Release) -> float:
    """How far a release with the patient is from one without, in total variation: its delta at epsilon 0.

    So much more often than half the time, twice over, does the best attacker tell them apart.
    """
    if release.sampling_rate == 1:
        return math.erf(math.sqrt(release.steps / 8) / release.sigma)
    bound = _renyi_epsilon([release], 1e-6)
    if bound == 0:
        return 0.0
    if bound > _HARDLY_NOISED:  # whoever is ever sampled is seen
        return 1 - (1 - release.sampling_rate) ** release.steps
    return float(_curve(release, _cell(release, 1, bound), "add-remove").get_delta_for_epsilon(0.0))


def least_noise(affordable: Callable[[float], bool]) -> float | None:
    """The smallest noise multiplier that is affordable, rounded up to four digits; None when none is.

    `affordable` must hold for any noise above one for which it holds.
    """
    low = high = 1.0
    if affordable(high):
        while low > LEAST_NOISE and affordable(low):
            low, high = max(low / 2, LEAST_NOISE), low
        if low == LEAST_NOISE and affordable(low):
            return low
    while not affordable(high):
        low, high = high, high * 2
        if high > MOST_NOISE:
            return None
    while high - low > 1e-5 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if affordable(middle) else (middle, high)
    unit = 10.0 ** (math.floor(math.log10(high)) - 3)
    return float(f"{math.ceil(high / unit) * unit:.4g}")


def cost(
    noise_multiplier: float, sampling_rate: float, steps: int, delta: float, relation: Relation = "add-remove"
) -> Cost:
    """The price of a subsampled Gaussian whose per-patient contribution is clipped to 1.

    Under replace-one the contribution moves by 2. dp-accounting's PLD takes that into account by itself (it wants
    the whole sigma), its RDP has no sampled answer there and would ignore the 2 at q = 1: both are handled here.
    """
    if sampling_rate == 1:
        sigma = noise_multiplier if relation == "add-remove" else noise_multiplier / 2
        whole = Release(sigma, steps=steps)
        return Cost(sequence_epsilon([whole], delta), _best_rdp_epsilon(whole, delta))
    release = Release(noise_multiplier, sampling_rate, steps)
    epsilon_rdp = _best_rdp_epsilon(release, delta) if relation == "add-remove" else None
    return Cost(_composed_epsilon([release], delta, relation), epsilon_rdp)


def accountant_version() -> str:
    """The accountant's name and version, as the ledger records it."""
    return f"dp-accounting {version('dp-accounting')}"


def _best_rdp_epsilon(release: Release, delta: float) -> float:
    from dp_accounting import rdp

    if release.sampling_rate == 1:
        order = best_order(sequence_epsilon([release], delta), delta)
        grid = [order, *rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS]
        return min(filter_epsilon(renyi(release, order), order, delta) for order in grid)
    accountant = rdp.RdpAccountant()
    accountant.compose(_event(release), release.steps)
    return float(accountant.get_epsilon(delta))


def _closed_form(sigma: float, delta: float) -> float:
    """The epsilon of one Gaussian (Balle and Wang 2018, theorem 8): the upper end of a bisection."""
    from scipy.special import log_ndtr

    def log_delta(epsilon: float) -> float:
        near, far = log_ndtr(0.5 / sigma - epsilon * sigma), epsilon + log_ndtr(-0.5 / sigma - epsilon * sigma)
        return float(near + math.log1p(-math.exp(far - near))) if far < near else -math.inf

    allowed, low, high = math.log(delta), 0.0, 1.0
    if log_delta(0.0) <= allowed:
        return 0.0
    while log_delta(high) > allowed:
        low, high = high, high * 10
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if log_delta(middle) > allowed else (low, middle)
    return high


def _conversion(order: float, delta: float) -> float:
    """What turning a divergence at `order` into an epsilon adds (the constant of `filter_epsilon`)."""
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def _event(release: Release) -> object:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    event = GaussianDpEvent(release.sigma)
    return event if release.sampling_rate == 1 else PoissonSampledDpEvent(release.sampling_rate, event)


# --- privacy loss distributions -------------------------------------------------------------------------------------


def _composed_epsilon(releases: Sequence[Release], delta: float, relation: Relation) -> float:
    shift = 1 if relation == "add-remove" else 2
    bound = _renyi_epsilon([replace(release, sigma=release.sigma / shift) for release in releases], delta)
    if bound == 0 or not math.isfinite(bound):
        return bound
    cell = max(_cell(release, shift, bound) for release in releases)
    whole, *others = (_curve(release, cell, relation) for release in releases)
    for other in others:
        whole = whole.compose(other)
    return float(whole.get_epsilon_for_delta(delta))


@lru_cache(maxsize=MOST_KINDS)
def _curve(release: Release, cell: float, relation: Relation) -> "PrivacyLossDistribution":
    """The privacy loss of one kind of release. Unsampled steps are one Gaussian: that needs no convolution."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    neighbours = {
        "add-remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }
    curve = privacy_loss_distribution.from_gaussian_mechanism(
        release.sigma,
        value_discretization_interval=cell,
        sampling_prob=release.sampling_rate,
        neighboring_relation=neighbours[relation],
    )
    return curve if release.steps == 1 else curve.self_compose(release.steps)


def _cell(release: Release, shift: int, bound: float) -> float:
    """The cell of the grid for a release: a twentieth of its loss's deviation in a step, or a thousandth of the whole.

    But never so fine that the losses do not fit into memory: they reach to about the epsilon of the whole (`bound`),
    and those of one step as far as its noise, cut at nine standard deviations. Any cell gives an upper bound.
    """
    ratio = shift / release.sigma
    deviation = release.sampling_rate * math.sqrt(math.expm1(min(ratio**2, 50.0)))
    reach = ratio**2 + 18 * ratio
    fine = min(deviation / 20, ratio / 20, bound / 1000)
    return max(fine, reach / MOST_CELLS_OF_STEP, bound / MOST_CELLS)


def _renyi_epsilon(releases: Sequence[Release], delta: float) -> float:
    """The epsilon at the best of some orders: what holds for a sequence that was fixed beforehand."""
    return min(
        filter_epsilon(sum(renyi(release, order) for release in releases), order, delta) for order in _SOME_ORDERS
    )


_SOME_ORDERS = (1.05, 1.25, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 32.0, 64.0)


def _merged(releases: Sequence[Release]) -> list[Release]:
    """Equal releases as more steps of one, and all that are not sampled as one Gaussian, whose precisions add up."""
    counts: dict[tuple[float, float], int] = {}
    for release in releases:
        kind = release.sigma, release.sampling_rate
        counts[kind] = counts.get(kind, 0) + release.steps
    whole = sum(steps / sigma**2 for (sigma, rate), steps in counts.items() if rate == 1)
    sampled = [Release(sigma, rate, steps) for (sigma, rate), steps in counts.items() if rate < 1]
    return [*sampled, *([Release(1 / math.sqrt(whole))] if whole else [])]
