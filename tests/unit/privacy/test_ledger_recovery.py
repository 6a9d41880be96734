"""What a ledger does not know is charged once, under the numbers that it had, whatever the budget."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from fedsite.errors import BudgetSpent, ServerBrokeProtocol
from fedsite.privacy import accountant
from fedsite.privacy.ledger import MOST_LOST, Charge, Ledger, Lost, Terms
from fedsite.privacy.spending import calendar
from fedsite.site.state import Record, State

Charges = Callable[..., Charge]


def kinds(ledger: Ledger) -> list[str]:
    return [record.body["kind"] for record in ledger.records()]


def lost(number: int, charge: Charge | None, sequence: int | None = None, payload: str | None = "p") -> Lost:
    digest = payload and f"{payload}{number}".ljust(64, "0")
    return Lost("test-federation", number, digest, "r" * 64, sequence, charge)


def test_a_lost_charge_costs_what_it_had_cost(ledger: Ledger, charge: Charges) -> None:
    expected = ledger.price(charge(1))
    ((_, record),) = ledger.recover([lost(1, charge(1), sequence=3)])
    spent = ledger.spent()
    assert (spent.epsilon, spent.divergence, spent.releases) == (expected.epsilon, expected.divergence, 1)
    assert kinds(ledger) == ["created", "lost", "recovered"]
    assert (record.sequence, record.body["payload_sha256"]) == (3, "p1".ljust(64, "0"))
    assert record.body["effective"] == {"sigma": 5.0, "sampling_rate": 1.0, "steps": 1}
    assert ledger.sequence() == 3, "the record that the server knows of is the record that charges it"


def test_what_is_known_is_not_charged_again(ledger: Ledger, charge: Charges) -> None:
    reservation = ledger.reserve(charge(1))
    ledger.release(reservation, "p1".ljust(64, "0"), 100)
    assert ledger.recover([lost(1, charge(1), sequence=3)]) == []
    found = [lost(2, charge(2), sequence=6), lost(3, charge(3), sequence=9)]
    assert len(ledger.recover(found)) == 2
    assert ledger.recover(found) == []
    assert ledger.recover([lost(2, charge(2), payload=None)]) == [], "its round is charged"
    assert ledger.spent().releases == 3


def test_a_second_payload_of_a_round_is_a_second_charge(ledger: Ledger, charge: Charges) -> None:
    ledger.release(ledger.reserve(charge(1)), "mine".ljust(64, "0"), 100)
    assert len(ledger.recover([lost(1, charge(1), sequence=3)])) == 1
    assert ledger.spent().releases == 2


def test_a_reservation_is_bound_to_the_payload_that_left(ledger: Ledger, charge: Charges) -> None:
    reservation = ledger.reserve(charge(1))
    ((_, record),) = ledger.recover([lost(1, charge(1), sequence=3)])
    assert kinds(ledger) == ["created", "reserved", "released", "acknowledged"]
    assert ledger.released(reservation) == record
    assert ledger.spent().releases == 1


def test_no_budget_refuses_what_has_left(ledger: Ledger, charge: Charges) -> None:
    ledger.recover([lost(number, charge(number, noise_multiplier=1.0)) for number in range(1, 4)])
    assert ledger.spent().epsilon > ledger.terms.epsilon
    with pytest.raises(BudgetSpent):
        ledger.reserve(charge(9, noise_multiplier=1e5))


@pytest.mark.parametrize("unpriced", [None, pytest.param({"delta_tail": 1.0}, id="a tail beyond delta")])
def test_what_has_no_price_takes_all_that_is_left(
    ledger: Ledger, charge: Charges, unpriced: dict[str, float] | None
) -> None:
    ledger.reserve(charge(1))
    ((_, record),) = ledger.recover([lost(2, None if unpriced is None else charge(2, **unpriced), sequence=5)])
    assert record.body["priced"] is False
    spent = ledger.spent()
    assert spent.epsilon == spent.epsilon_of_sequence == ledger.terms.epsilon
    delta = ledger.terms.delta - spent.delta_tail
    assert accountant.filter_epsilon(spent.divergence, ledger.terms.order, delta) == pytest.approx(ledger.terms.epsilon)
    with pytest.raises(BudgetSpent):
        ledger.reserve(charge(3, noise_multiplier=1e4))


def test_what_left_without_noise_is_not_private_here_either(ledger: Ledger, charge: Charges) -> None:
    ledger.recover([lost(1, charge(1, noise_multiplier=0.0))])
    assert ledger.spent().epsilon is None
    ledger.recover([lost(2, None)])
    assert ledger.spent().epsilon is None


def test_a_number_beyond_reason_is_refused(ledger: Ledger, charge: Charges) -> None:
    with pytest.raises(ServerBrokeProtocol):
        ledger.recover([lost(1, charge(1), sequence=MOST_LOST + 10)])
    assert kinds(ledger) == ["created"]


def test_after_a_recovery_the_sequence_is_composed_anew(ledger: Ledger, charge: Charges) -> None:
    ledger.recover([lost(number, charge(number, noise_multiplier=40.0)) for number in (1, 2)])
    ledger.reserve(charge(3, noise_multiplier=40.0))
    tail = 3 * charge().delta_tail
    exact = accountant.sequence_epsilon([accountant.Release(20.0, steps=3)], ledger.terms.delta - tail)
    assert ledger.spent().epsilon_of_sequence == pytest.approx(exact)


# --- a thousand releases --------------------------------------------------------------------------------------------


def test_a_ledger_of_a_thousand_releases_answers_within_two_seconds(state: State, charge: Charges) -> None:
    """Years of a site: a thousand rounds of dp-sgd, each with another noise and another rate."""
    ledger = Ledger.create(state, Terms.chosen(8.0, 1e-6, 500))

    def private(number: int) -> Charge:
        sigma, rate = 30 + number / 100, 0.01 + number / 1e5
        release = accountant.Release(sigma, rate, 40)
        return charge(
            number, sigma, mechanism="dp-sgd", sampling_rate=rate, steps=40, release=release, delta_tail=1e-11
        )

    ledger.recover([lost(number, private(number), sequence=3 * number) for number in range(1, 1001)])
    assert ledger.sequence() == 3000
    started = time.process_time()
    after = ledger.price(private(1001))
    assert ledger.spent().releases == 1000
    assert time.process_time() - started < 2
    assert after.releases == 1001
    divergence = sum(accountant.renyi(private(number).release, ledger.terms.order) for number in range(1, 1002))
    assert after.divergence == pytest.approx(divergence)
    started = time.process_time()
    recorded = ledger.reserve(private(1001)).body["after"]
    assert time.process_time() - started < 20, "what stands beside it may take its time, once a round"
    assert 0 < recorded["epsilon_of_sequence"] < recorded["epsilon"] == after.epsilon


# --- the calendar ---------------------------------------------------------------------------------------------------


def test_the_calendar_goes_by_month(ledger: Ledger, charge: Charges) -> None:
    records = [ledger.reserve(charge(number, noise_multiplier=40.0)) for number in (1, 2, 3)]
    times = ("2026-01-30T10:00:00+00:00", "2026-03-01T10:00:00+00:00", "2026-03-02T10:00:00+00:00")
    charges: list[Record] = [replace(record, time=at) for record, at in zip(records, times, strict=True)]
    first, second = calendar(charges)
    assert [(one.month, one.releases) for one in (first, second)] == [("2026-01", 1), ("2026-03", 2)]
    assert first.epsilon == first.rise == records[0].body["after"]["epsilon"]
    assert second.epsilon == records[2].body["after"]["epsilon"]
    assert math.isclose(first.rise + second.rise, second.epsilon)


def test_the_calendar_of_what_is_not_private(ledger: Ledger, charge: Charges) -> None:
    ledger.reserve(charge(1))
    ledger.reserve(charge(2, noise_multiplier=0.0))
    (month,) = calendar(ledger.charges())
    assert (month.releases, month.epsilon, month.rise) == (2, None, None)
