"""What a release costs, by `dp-accounting` (imported only where something is computed: it takes seconds).

The unit is the patient, the relation add/remove one. A `gaussian-update` clips the whole update to C: one patient
added or removed can move it by 2C, so noise of standard deviation sigma*C is Gaussian(sigma/2) for the patient.
The binding number is the Renyi filter at one fixed order (Feldman and Zrnic 2021), which stays valid when the
server chooses the next release after seeing the last. At q = 1 the closed form of Balle and Wang (2018) is exact;
PLD is never asked there (at small sigma it takes minutes and gigabytes).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

Relation = Literal["add-remove", "replace-one"]
LOWEST_ORDER = 1.02  # dp-accounting's conversion answers nothing useful at orders below 1.01
HIGHEST_ORDER = 512.0


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


def renyi(release: Release, order: float) -> float:
    """The Renyi divergence of one release at the given order (Mironov 2017; sampled: Mironov et al. 2019)."""
    if release.sampling_rate == 1:
        return release.steps * order / (2 * release.sigma**2)
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant([order])
    accountant.compose(_event(release), release.steps)
    return float(accountant.rdp[0])


def filter_epsilon(divergence: float, order: float, delta: float) -> float:
    """The epsilon at `delta` of a total Renyi divergence at one order (Canonne, Kamath and Steinke 2020)."""
    if delta <= 0:
        return math.inf
    if divergence == 0:
        return 0.0
    from dp_accounting.rdp import compute_epsilon

    return float(compute_epsilon([order], [divergence], delta)[0])


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

    Closed form when no release is sampled (noises of a sequence add as inverse squares), else PLD.
    """
    if delta <= 0:
        return math.inf
    if not releases:
        return 0.0
    if all(release.sampling_rate == 1 for release in releases):
        precision = sum(release.steps / release.sigma**2 for release in releases)
        return _closed_form(1 / math.sqrt(precision), delta)
    from dp_accounting import pld

    accountant = pld.PLDAccountant()
    for release, count in _merged(releases).items():
        accountant.compose(_event(release), count)
    return float(accountant.get_epsilon(delta))


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
    from dp_accounting import NeighboringRelation, pld

    release = Release(noise_multiplier, sampling_rate, steps)
    neighbours = {
        "add-remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }
    accountant = pld.PLDAccountant(neighbours[relation])
    accountant.compose(_event(release), steps)
    epsilon_rdp = _best_rdp_epsilon(release, delta) if relation == "add-remove" else None
    return Cost(float(accountant.get_epsilon(delta)), epsilon_rdp)


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
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(sigma, delta))


def _conversion(order: float, delta: float) -> float:
    """What turning a divergence at `order` into an epsilon adds (the constant of `filter_epsilon`)."""
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def _event(release: Release) -> object:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    event = GaussianDpEvent(release.sigma)
    return event if release.sampling_rate == 1 else PoissonSampledDpEvent(release.sampling_rate, event)


def _merged(releases: Sequence[Release]) -> dict[Release, int]:
    """Equal releases counted together: composing them one by one would cost a convolution each."""
    counts: dict[Release, int] = {}
    for release in releases:
        one = Release(release.sigma, release.sampling_rate)
        counts[one] = counts.get(one, 0) + release.steps
    return counts
