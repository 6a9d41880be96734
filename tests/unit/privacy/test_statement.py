"""No epsilon without unit, relation and delta."""

import pytest

from fedsite.privacy.statement import MEANINGFUL, NO_MEANINGFUL_GUARANTEE, NOT_PRIVATE, guarantee


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 8.0, MEANINGFUL, MEANINGFUL + 1e-9, 412_345.6])
def test_an_epsilon_comes_with_unit_relation_and_delta(epsilon: float) -> None:
    text = guarantee(epsilon, 1e-6)
    assert "per patient" in text
    assert "add or remove one" in text
    assert "delta 1e-06" in text
    assert (NO_MEANINGFUL_GUARANTEE in text) == (epsilon > MEANINGFUL)


def test_without_noise_it_says_not_private() -> None:
    assert guarantee(None, 1e-6).startswith(NOT_PRIVATE)
    assert "epsilon" not in guarantee(None, 1e-6)


def test_large_numbers_are_written_out() -> None:
    assert "epsilon 412,346 " in guarantee(412_345.6, 1e-6)
