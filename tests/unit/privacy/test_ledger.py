"""The ledger: charged once, released once, never refunded, never forgotten."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedsite.errors import BudgetSpent, NotAuthorised, RecordsDamaged
from fedsite.privacy import accountant
from fedsite.privacy.ledger import Charge, Ledger, Spent, Terms
from fedsite.privacy.statement import NOT_PRIVATE, guarantee
from fedsite.site.state import State

FIELDS_OF_PRIVACY_MD = {
    "federation",
    "round",
    "plan_sha256",
    "ticket_sha256",
    "mechanism",
    "sensitivity",
    "clip_norm",
    "noise_multiplier",
    "sampling_rate",
    "steps",
    "delta",
    "before",
    "after",
    "accountant",
    "generator",
    "kind",
}
Charges = Callable[..., Charge]


def kinds(ledger: Ledger) -> list[str]:
    return [record.body["kind"] for record in ledger.records()]


# --- charging -------------------------------------------------------------------------------------------------------


def test_a_round_is_charged_once(ledger: Ledger, charge: Charges) -> None:
    first = ledger.reserve(charge())
    again = ledger.reserve(charge())
    assert again == first
    assert kinds(ledger) == ["created", "reserved"]
    assert ledger.spent().releases == 1


def test_the_charge_is_that_of_a_patient_who_moves_the_update_by_2c(ledger: Ledger, charge: Charges) -> None:
    """sigma = 10 is Gaussian(5) for the patient: the filter and the closed form say so."""
    after = Spent(**ledger.reserve(charge(noise_multiplier=10.0)).body["after"])
    tail = charge().delta_tail
    assert after.divergence == pytest.approx(ledger.terms.order / (2 * 5.0**2))
    assert after.epsilon_of_sequence == accountant.sequence_epsilon([accountant.Release(5.0)], 1e-6 - tail)
    assert after.epsilon == accountant.filter_epsilon(after.divergence, ledger.terms.order, 1e-6 - tail)
    assert after.epsilon >= after.epsilon_of_sequence > 0


def test_a_row_holds_what_privacy_md_lists(ledger: Ledger, charge: Charges) -> None:
    record = ledger.reserve(charge())
    released = ledger.release(record, "d" * 64, 1234)
    assert set(record.body) >= FIELDS_OF_PRIVACY_MD
    assert record.sequence == 2
    assert record.previous == next(ledger.records()).hash
    assert record.time
    assert record.body["kind"] == "reserved"
    assert record.body["effective"] == {"sigma": 5.0, "sampling_rate": 1.0, "steps": 1}
    assert record.body["before"] == asdict(Spent())
    assert record.body["accountant"].startswith("dp-accounting ")
    assert released.body["payload_sha256"] == "d" * 64
    assert released.body["reservation"] == record.sequence
    # Nothing in a row is derived from patients: no norm, no count of cases, no loss.
    forbidden = {"norm_before", "norm_clipped", "cases", "loss", "dice", "training"}
    assert all(forbidden.isdisjoint(one.body) for one in ledger.records())


def test_charges_add_up(ledger: Ledger, charge: Charges) -> None:
    for number in range(1, 6):
        ledger.reserve(charge(number, noise_multiplier=40.0))
    spent = ledger.spent()
    tail = 5 * charge().delta_tail
    assert spent.releases == 5
    assert spent.delta_tail == pytest.approx(tail)
    assert spent.divergence == pytest.approx(5 * ledger.terms.order / (2 * 20.0**2))
    merged = accountant.sequence_epsilon([accountant.Release(20.0, steps=5)], 1e-6 - tail)
    assert spent.epsilon_of_sequence == pytest.approx(merged)
    befores = [record.body["before"] for record in ledger.records() if record.body["kind"] == "reserved"]
    afters = [record.body["after"] for record in ledger.records() if record.body["kind"] == "reserved"]
    assert befores[1:] == afters[:-1]


def test_rounds_of_two_federations_are_two_charges(ledger: Ledger, charge: Charges) -> None:
    one = ledger.reserve(charge(1))
    other = ledger.reserve(charge(1, federation="another"))
    assert one.sequence != other.sequence
    assert ledger.reservation("another", 1) == other


# --- the budget -----------------------------------------------------------------------------------------------------


def test_a_spent_ledger_refuses_and_leaves_no_row(ledger: Ledger, state: State, charge: Charges) -> None:
    number = 0
    with pytest.raises(BudgetSpent) as refused:  # noqa: PT012 - the round in which it happens is the question
        while True:
            number += 1
            assert number < 50, "the budget never ended"
            ledger.reserve(charge(number, noise_multiplier=5.0))
    assert number > 1
    assert refused.value.exit_code == 81
    assert kinds(ledger) == ["created"] + ["reserved"] * (number - 1)
    assert state.verify() == {"ledger": number, "audit": number}
    assert ledger.spent().epsilon <= ledger.terms.epsilon
    for wording in ("per patient", "delta 1e-06", "the budget is epsilon 8"):
        assert wording in refused.value.message
    # A round that the ledger paid for may still finish.
    assert ledger.reserve(charge(1, noise_multiplier=5.0)).sequence == 2


def test_the_sites_policy_tightens_the_budget_and_never_widens_it(ledger: Ledger, charge: Charges) -> None:
    costly = charge(1, noise_multiplier=3.0)
    assert ledger.price(costly).epsilon == pytest.approx(4.4, abs=0.8)
    with pytest.raises(BudgetSpent, match=r"the budget is epsilon 1\."):
        ledger.reserve(costly, limit=1.0)
    assert kinds(ledger) == ["created"]
    with pytest.raises(BudgetSpent, match=r"the budget is epsilon 8\."):
        ledger.reserve(charge(1, noise_multiplier=0.5), limit=1e9)


def test_the_tail_of_the_noise_is_charged_to_delta(ledger: Ledger, charge: Charges) -> None:
    plain = ledger.price(charge(delta_tail=0.0)).epsilon
    assert ledger.price(charge(delta_tail=9e-7)).epsilon > plain
    ledger.reserve(charge(1, delta_tail=6e-7))
    with pytest.raises(BudgetSpent, match="delta is used up"):
        ledger.reserve(charge(2, delta_tail=6e-7))
    assert kinds(ledger) == ["created", "reserved"]


def test_what_left_without_noise_is_not_private_for_ever(ledger: Ledger, charge: Charges) -> None:
    ledger.reserve(charge(1))
    row = ledger.reserve(charge(2, noise_multiplier=0.0))
    assert row.body["effective"] is None
    assert row.body["after"]["epsilon"] is None
    for number in (3, 4):
        after = Spent(**ledger.reserve(charge(number)).body["after"])
        assert (after.epsilon, after.epsilon_of_sequence) == (None, None)
    spent = ledger.spent()
    assert (spent.epsilon, spent.releases) == (None, 4)
    assert spent.divergence == pytest.approx(3 * ledger.terms.order / (2 * 5.0**2))
    assert guarantee(spent.epsilon, 1e-6).startswith(NOT_PRIVATE)


# --- a rerun uses its reservation, and only its own ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"ticket_sha256": "f" * 64},
        {"plan_sha256": "f" * 64},
        {"clip_norm": 2.0},
        {"sensitivity": 4.0},
        {"steps": 2},
        {"sampling_rate": 0.5},
        {"mechanism": "another"},
    ],
)
def test_a_reservation_pays_for_nothing_but_its_own_round(
    ledger: Ledger, charge: Charges, change: dict[str, object]
) -> None:
    ledger.reserve(charge(1))
    with pytest.raises(RecordsDamaged, match="another plan, ticket or mechanism"):
        ledger.reserve(charge(1, **change))
    with pytest.raises(RecordsDamaged, match="another plan, ticket or mechanism"):
        ledger.reserve(charge(1, noise_multiplier=0.1))
    assert kinds(ledger) == ["created", "reserved"]


def test_an_update_of_fedsite_between_two_runs_does_not_lose_the_reservation(ledger: Ledger, charge: Charges) -> None:
    first = ledger.reserve(charge(1))
    assert ledger.reserve(charge(1, generator="a newer generator", delta_tail=2e-9)) == first


# --- releasing ------------------------------------------------------------------------------------------------------


def test_a_reservation_has_one_payload(ledger: Ledger, charge: Charges) -> None:
    reservation = ledger.reserve(charge())
    assert ledger.released(reservation) is None
    first = ledger.release(reservation, "d" * 64, 100)
    assert ledger.release(reservation, "d" * 64, 100) == first
    with pytest.raises(RecordsDamaged, match="another payload"):
        ledger.release(reservation, "e" * 64, 100)
    assert ledger.released(reservation) == first
    assert kinds(ledger) == ["created", "reserved", "released"]


def test_a_receipt_is_kept_once(ledger: Ledger, charge: Charges) -> None:
    reservation = ledger.reserve(charge())
    ledger.release(reservation, "d" * 64, 100)
    first = ledger.acknowledge(reservation, "c" * 64)
    assert ledger.acknowledge(reservation, "c" * 64) == first
    assert kinds(ledger) == ["created", "reserved", "released", "acknowledged"]
    assert ledger.sequence() == first.sequence == 4


def test_two_rounds_do_not_mix_their_payloads(ledger: Ledger, charge: Charges) -> None:
    one, other = ledger.reserve(charge(1)), ledger.reserve(charge(2))
    ledger.release(other, "2" * 64, 100)
    ledger.release(one, "1" * 64, 100)
    assert ledger.released(one).body["payload_sha256"] == "1" * 64
    assert ledger.released(other).body["payload_sha256"] == "2" * 64


# --- terms ----------------------------------------------------------------------------------------------------------


def test_terms_are_fixed_by_the_first_record(ledger: Ledger, state: State, terms: Terms) -> None:
    assert ledger.terms == terms
    with pytest.raises(RecordsDamaged, match="has a ledger already"):
        Ledger.create(state, Terms(1000.0, 1e-3, 2.0, 1))
    folder = state.folder
    state.close()
    with State.open(folder) as reopened:
        assert Ledger(reopened).terms == terms


def test_a_state_folder_without_a_ledger_says_what_to_do(state: State) -> None:
    with pytest.raises(NotAuthorised, match="fedsite init"):
        Ledger(state)
    state.append("ledger", {"kind": "reserved"})
    with pytest.raises(RecordsDamaged, match="fedsite privacy recover"):
        Ledger(state)


# --- any order, any interruption ------------------------------------------------------------------------------------


class LedgerMachine(RuleBasedStateMachine):
    """Reserves, releases, acknowledges, reopens in any order, against a model of what must be in the ledger."""

    rounds = st.integers(1, 4)
    digests = st.sampled_from(["a" * 64, "b" * 64])

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.state = State.create(Path(self.folder.name) / "state")
        self.ledger = Ledger.create(self.state, Terms(6.0, 1e-6, accountant.best_order(6.0, 1e-6), 50))
        self.charged: dict[int, float] = {}
        self.payloads: dict[int, str] = {}
        self.receipts: dict[int, str] = {}

    def charge(self, number: int, sigma: float) -> Charge:
        ticket, release = f"{number:064x}", accountant.gaussian_update(sigma)
        return Charge(
            "f", number, "p" * 64, ticket, "gaussian-update", 2.0, 1.0, sigma, 1.0, 1, release, 1e-9, "generator"
        )

    @rule(number=rounds, sigma=st.sampled_from([4.0, 9.0, 30.0]), limit=st.sampled_from([None, 1.0]))
    def reserve(self, number: int, sigma: float, limit: float | None) -> None:
        try:
            self.ledger.reserve(self.charge(number, sigma), limit)
        except BudgetSpent:
            assert number not in self.charged
        except RecordsDamaged:
            assert self.charged[number] != sigma
        else:
            assert self.charged.setdefault(number, sigma) == sigma

    @precondition(lambda self: self.charged)
    @rule(number=rounds, digest=digests)
    def release(self, number: int, digest: str) -> None:
        reservation = self.ledger.reservation("f", number)
        assert (reservation is not None) == (number in self.charged)
        if reservation is None:
            return
        try:
            self.ledger.release(reservation, digest, 10)
        except RecordsDamaged:
            assert self.payloads[number] != digest
        else:
            assert self.payloads.setdefault(number, digest) == digest

    @precondition(lambda self: self.payloads)
    @rule(number=rounds, digest=digests)
    def acknowledge(self, number: int, digest: str) -> None:
        if number in self.payloads:
            self.ledger.acknowledge(self.ledger.reservation("f", number), digest)
            self.receipts.setdefault(number, digest)

    @rule()
    def reopen(self) -> None:
        self.state.close()
        self.state = State.open(Path(self.folder.name) / "state")
        self.ledger = Ledger(self.state)

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        bodies = [record.body for record in self.ledger.records()]
        reserved = {body["round"]: body for body in bodies if body["kind"] == "reserved"}
        assert len([body for body in bodies if body["kind"] == "reserved"]) == len(self.charged) == len(reserved)
        released = [(body["round"], body["payload_sha256"]) for body in bodies if body["kind"] == "released"]
        assert sorted(released) == sorted(self.payloads.items())
        assert len([body for body in bodies if body["kind"] == "acknowledged"]) == len(self.receipts)
        spent = self.ledger.spent()
        divergence = sum(self.ledger.terms.order / (2 * (sigma / 2) ** 2) for sigma in self.charged.values())
        assert spent.releases == len(self.charged)
        assert math.isclose(spent.divergence, divergence, abs_tol=1e-12)
        assert spent.epsilon <= self.ledger.terms.epsilon
        lengths = self.state.verify()
        assert lengths["ledger"] == lengths["audit"] == len(bodies)

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.state.close()
            self.folder.cleanup()


TestLedgerInAnyOrder = LedgerMachine.TestCase
TestLedgerInAnyOrder.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
