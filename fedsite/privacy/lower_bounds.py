"""What an attack shows of a mechanism: a lower bound on its cost, with the confidence that it has.

No attack proves a mechanism private: a weak one finds nothing. A bound above what was stated proves it wrong, though.
Evidence is a number for each case, the higher the more it speaks for "took part". How it is judged is decided before it
is seen, or paid for by the union bound.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsite.privacy import accountant
from fedsite.privacy.accountant import Release

# An honest mechanism may lie right at what is tested: it must not be called broken once in a hundred times.
CONFIDENCE = 0.999
# The bound of one run stays far below an honest mechanism; the usual confidence leaves it what strength it has.
CONFIDENCE_OF_ONE_RUN = 0.95
# Which parts of the canaries are guessed, the surest first: where the bound is best is not known beforehand.
PARTS = (0.01, 0.03, 0.1, 0.3, 1.0)
_HIGHEST_EPSILON = 100.0

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class LowerBound:
    """A mechanism costs at least `epsilon`, else what was seen had a chance below 1 - `confidence`.

    It rests on `guesses` of which `right` were right.
    """

    epsilon: float
    confidence: float
    guesses: int
    right: int


@dataclass(frozen=True)
class Accuracy:
    """How many guesses were right when all were made; `low` bounds the rate with the confidence.

    `allowed` is the rate of the best attacker on the mechanism as it is stated. A `low` above it refutes the statement.
    """

    right: int
    guesses: int
    low: float
    allowed: float
    confidence: float


@dataclass(frozen=True)
class Area:
    """The area under a ROC curve, and the bounds between which it lies with the confidence (each alone)."""

    area: float
    low: float
    high: float
    confidence: float


def one_run(evidence: Floats, included: Bits, delta: float, confidence: float = CONFIDENCE_OF_ONE_RUN) -> LowerBound:
    """The bound of one run with many canaries, each included by the toss of a coin (Steinke, Nasr, Jagielski 2023).

    `evidence` is one number a canary; near its median nothing is guessed. No assumption is made about the mechanism.
    Of several parts that are guessed the best is taken, each at its share of the doubt.
    """
    beyond = evidence - np.median(evidence)
    order = np.argsort(-np.abs(beyond), kind="stable")
    is_right = (beyond > 0)[order] == included[order]
    doubt = (1 - confidence) / len(PARTS)
    bounds = []
    for guesses in sorted({max(1, round(part * len(order))) for part in PARTS}):
        right = int(is_right[:guesses].sum())
        epsilon = _largest_refuted(len(order), guesses, right, delta, doubt)
        bounds.append(LowerBound(epsilon, confidence, guesses, right))
    return max(bounds, key=lambda bound: bound.epsilon)


def two_worlds(without: Floats, within: Floats, delta: float, confidence: float = CONFIDENCE) -> LowerBound:
    """The bound of many runs in two worlds that differ by one patient, for a mechanism that is stated to be Gaussian.

    A Gaussian mechanism of parameter mu lets nobody have both error rates below its trade-off curve (Dong, Roth and Su
    2022): mu is at least the sum of the quantiles of both rates' upper bounds (Clopper and Pearson 1934), each at half
    of the doubt. Its epsilon is the closed form's (Nasr et al. 2023 audit so).
    """
    from scipy.special import ndtri

    doubt = (1 - confidence) / 2
    wrong = int((without > 0).sum()), int((within <= 0).sum())
    highest = (_upper(count, len(runs), doubt) for count, runs in zip(wrong, (without, within), strict=True))
    mu = -float(sum(ndtri(rate) for rate in highest))
    epsilon = accountant.sequence_epsilon([Release(1 / mu)], delta) if mu > 0 else 0.0
    runs = len(without) + len(within)
    return LowerBound(epsilon, confidence, runs, runs - sum(wrong))


def accuracy(without: Floats, within: Floats, stated: Release | None, confidence: float = CONFIDENCE) -> Accuracy:
    """How often evidence is right when every case is guessed, by which side of the median it lies on.

    This sees more than `one_run`, which has to hold for any mechanism: it asks only whether the stated one, under which
    cases are independent, is there.
    """
    from scipy.special import betaincinv

    guesses, middle = len(without) + len(within), np.median(np.concatenate([without, within]))
    right = int((without <= middle).sum() + (within > middle).sum())
    low = float(betaincinv(right, guesses - right + 1, 1 - confidence)) if right else 0.0
    allowed = (1 + accountant.advantage(stated)) / 2 if stated else 1.0
    return Accuracy(right, guesses, low, allowed, confidence)


def area_under_curve(without: Floats, within: Floats, confidence: float = CONFIDENCE) -> Area:
    """How often a member's score is above a stranger's, ties counted half, with DeLong's interval (1988)."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    strangers, members = len(without), len(within)
    ranks = rankdata(np.concatenate([within, without]))
    # Of each member the part of strangers below it, of each stranger the part of members above it.
    above = (ranks[:members] - rankdata(within)) / strangers
    below = 1 - (ranks[members:] - rankdata(without)) / members
    area = float(above.mean())
    deviation = math.sqrt(above.var(ddof=1) / members + below.var(ddof=1) / strangers)
    reach = float(ndtri(confidence)) * deviation
    return Area(area, max(0.0, area - reach), min(1.0, area + reach), confidence)


def rates(without: Floats, within: Floats) -> Floats:
    """The ROC curve [n, 2]: which share of strangers, and of members, lies above each threshold, from (0, 0) up."""
    thresholds = np.unique(np.concatenate([without, within]))[::-1]
    shares = [1 - np.searchsorted(np.sort(values), thresholds, "left") / len(values) for values in (without, within)]
    return np.concatenate([[[0.0, 0.0]], np.stack(shares, axis=1)])


def gaussian_rates(mu: float) -> Floats:
    """The highest ROC curve [n, 2] that a Gaussian mechanism of parameter mu allows."""
    from scipy.special import ndtr, ndtri

    strangers = np.concatenate([np.geomspace(1e-6, 0.1, 40), np.linspace(0.1, 1, 60)])
    return np.stack([strangers, ndtr(ndtri(strangers) + mu)], axis=1)


def gaussian_area(mu: float) -> float:
    """The largest area under a ROC curve that a Gaussian mechanism of parameter mu allows: Phi(mu / sqrt 2)."""
    return 0.5 * math.erfc(-mu / 2)


def _largest_refuted(canaries: int, guesses: int, right: int, delta: float, doubt: float) -> float:
    low, high = 0.0, _HIGHEST_EPSILON
    if _chance(canaries, guesses, right, low, delta) >= doubt:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        refuted = _chance(canaries, guesses, right, middle, delta) < doubt
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _chance(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The largest chance of so many right guesses about an (epsilon, delta)-private mechanism (ibid., Theorem 5.2)."""
    from scipy.stats import binom

    accuracy = 1 / (1 + math.exp(-epsilon))
    by_chance = float(binom.sf(right - 1, guesses, accuracy))
    if not right or not delta:
        return by_chance
    fewer = np.arange(1, right + 1)
    near = binom.cdf(right - 1, guesses, accuracy) - binom.cdf(right - 1 - fewer, guesses, accuracy)
    return by_chance + 2 * canaries * delta * float((near / fewer).max())


def _upper(count: int, of: int, doubt: float) -> float:
    """The upper bound of a rate, from how often it was seen (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    return 1.0 if count == of else float(betaincinv(count + 1, of - count, 1 - doubt))
