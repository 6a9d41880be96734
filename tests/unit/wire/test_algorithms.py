"""The server's arithmetic, each rule against one that was written down or programmed by somebody else."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from fedsite.wire.algorithms import adams_model, coordinate_median, next_moments, trimmed_mean, within_norm
from fedsite.wire.server_rules import left_out

VALUES = st.floats(-1e6, 1e6, width=32)
STACKS = arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=VALUES)


@settings(deadline=None)
@given(stack=STACKS)
def test_the_median_is_numpys(stack: np.ndarray) -> None:
    np.testing.assert_array_equal(coordinate_median(np.sort(stack, axis=0)), np.median(stack, axis=0))


@settings(deadline=None)
@given(stack=STACKS, share=st.sampled_from([0.1, 0.2, 0.25, 0.34, 0.49]))
def test_the_trimmed_mean_is_scipys(stack: np.ndarray, share: float) -> None:
    found = trimmed_mean(np.sort(stack, axis=0), left_out(len(stack), share))
    np.testing.assert_allclose(found, stats.trim_mean(stack, share, axis=0), rtol=1e-12, atol=1e-9)


@given(norm=st.floats(0, 1e30), bound=st.floats(1e-6, 1e6))
def test_what_is_longer_ends_at_the_bound_and_nothing_grows(norm: float, bound: float) -> None:
    factor = within_norm(norm, bound)
    assert 0 < factor <= 1
    assert factor * norm <= bound * (1 + 1e-12)
    assert factor == 1 or norm > bound


def test_adam_by_hand() -> None:
    """Reddi et al. 2021, algorithm 2 in fractions: two rounds of one value, v before the first at tau squared."""
    beta1, beta2, rate, tau = Fraction(9, 10), Fraction(99, 100), Fraction(1, 10), Fraction(1, 1000)
    model, mean, square = Fraction(1), Fraction(0), tau**2
    ours, first, second = np.array([1.0]), 0.0, float(tau) ** 2
    for update in (Fraction(1, 2), Fraction(-1, 4)):
        mean = beta1 * mean + (1 - beta1) * update
        square = beta2 * square + (1 - beta2) * update**2
        model += rate * mean / (Fraction(math.sqrt(square)) + tau)
        first, second = next_moments(first, second, np.array([float(update)]), 0.9, 0.99)
        ours = adams_model(ours, first, second, 0.1, 0.001)
        assert (first[0], second[0]) == pytest.approx((float(mean), float(square)), rel=1e-12)
        assert ours[0] == pytest.approx(float(model), rel=1e-12)
