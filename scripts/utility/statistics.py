"""How sure a mean over patients is: stratified bootstrap, paired where two models saw the same patients.

A stratum is one hospital under one seed. Patients are drawn with replacement within their stratum, and every stratum
counts the same. What is left out: another training of the same models would come out a little different. So results
are also shown for each seed by itself.

Efron and Tibshirani 1993, An Introduction to the Bootstrap: percentile intervals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
LEVEL = 0.95

Key = TypeVar("Key")
Strata = Mapping[Key, NDArray[np.float64]]
"""One value for each patient, by stratum."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and the interval that holds it with 95% confidence."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def mean(strata: Strata[Key]) -> float:
    """The mean of the strata's means."""
    return float(np.mean([values.mean() for values in strata.values()]))


def estimate(strata: Strata[Key], seed: int = 0) -> Estimate:
    """The mean of the strata's means, with its interval. Raises ValueError without patients."""
    if not strata or not all(values.size for values in strata.values()):
        raise ValueError("a stratum without patients")
    random = np.random.default_rng(seed)
    drawn = np.zeros(DRAWS)
    for values in strata.values():
        drawn += values[random.integers(values.size, size=(DRAWS, values.size))].mean(axis=1)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn / len(strata), [tail, 100 - tail])
    return Estimate(mean(strata), float(low), float(high))


def paired(strata: Strata[Key], reference: Strata[Key]) -> dict[Key, NDArray[np.float64]]:
    """Each patient's difference to the reference. Raises ValueError where they are not the same patients."""
    if strata.keys() != reference.keys() or any(strata[key].shape != reference[key].shape for key in strata):
        raise ValueError("not the same patients")
    return {key: values - reference[key] for key, values in strata.items()}
