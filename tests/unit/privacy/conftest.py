"""A state folder with a ledger, and charges to put into it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import old_records

from fedsite.privacy import accountant
from fedsite.privacy.ledger import Charge, Ledger, Terms
from fedsite.site.state import State

TERMS = Terms(epsilon=8.0, delta=1e-6, order=accountant.best_order(8.0, 1e-6), nominal_patients=100)


def a_charge(number: int = 1, noise_multiplier: float = 10.0, **changes: object) -> Charge:
    """A charge as `jobs.round.state_machine` makes it: a noised update of ten million values."""
    whole = replace(
        old_records.charge(number),
        noise_multiplier=noise_multiplier,
        release=accountant.gaussian_update(noise_multiplier) if noise_multiplier else None,
        delta_tail=1e7 * 2.0**-53 if noise_multiplier else 0.0,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.fixture
def charge() -> Callable[..., Charge]:
    return a_charge


@pytest.fixture
def terms() -> Terms:
    return TERMS


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.create(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def ledger(state: State) -> Ledger:
    return Ledger.create(state, TERMS)
