"""The privacy ledger: charge first, then release, once.

A reservation is durable before the noise is drawn; it is never refunded and a rerun of its round uses it again.
`released` binds the reservation to one payload digest, before the first byte can leave; `acknowledged` keeps the
server's receipt. Terms (unit, relation, delta, order of the filter, budget) are fixed by the first record.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedsite.errors import BudgetSpent, NotAuthorised, RecordsDamaged
from fedsite.privacy import accountant
from fedsite.privacy.accountant import Release
from fedsite.privacy.statement import guarantee
from fedsite.site.state import Record, State


@dataclass(frozen=True)
class Terms:
    """What cannot be changed: the lifetime budget, delta, the filter's order, the typed number of patients."""

    epsilon: float
    delta: float
    order: float
    nominal_patients: int
    unit: str = "patient"
    relation: str = "add-remove"


@dataclass(frozen=True)
class Charge:
    """What one round asks the ledger for. `sensitivity` is how far one patient can move the sum, in the update's
    units; `release` is None when the plan adds no noise.
    """

    federation: str
    round: int
    plan_sha256: str
    ticket_sha256: str
    mechanism: str
    sensitivity: float
    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    release: Release | None
    delta_tail: float
    generator: str


@dataclass(frozen=True)
class Spent:
    """The running totals after some record. `epsilon` None: something left without noise.

    `epsilon_noised` prices what did leave with noise; the budget binds it also after something left without.
    """

    divergence: float = 0.0
    delta_tail: float = 0.0
    epsilon: float | None = 0.0
    epsilon_of_sequence: float | None = 0.0
    epsilon_noised: float = 0.0
    releases: int = 0


_BINDING = (
    "plan_sha256",
    "ticket_sha256",
    "mechanism",
    "sensitivity",
    "clip_norm",
    "noise_multiplier",
    "sampling_rate",
    "steps",
)


class Ledger:
    """The ledger in a site's state folder."""

    def __init__(self, state: State) -> None:
        self._state = state
        first = next(state.records("ledger"), None)
        if first is None or first.body.get("kind") != "created":
            raise NotAuthorised("This state folder has no privacy ledger.", "Set this site up with: fedsite init")
        fields = {name: first.body[name] for name in Terms.__dataclass_fields__}
        self.terms = Terms(**fields)

    @staticmethod
    def create(state: State, terms: Terms) -> "Ledger":
        """Writes the first record. Raises RecordsDamaged when there is a ledger already."""
        if state.last("ledger") is not None:
            raise RecordsDamaged("This state folder has a ledger already.", "A ledger is never started again.")
        state.append("ledger", {"kind": "created", **asdict(terms)})
        return Ledger(state)

    def records(self) -> Iterator[Record]:
        """Every record, oldest first."""
        return self._state.records("ledger")

    def sequence(self) -> int:
        """The last sequence number, which a site names when it checks in."""
        last = self._state.last("ledger")
        return last.sequence if last else 0

    def spent(self) -> Spent:
        """What has been charged so far, as the last reservation recorded it (nothing is computed)."""
        totals = [record.body["after"] for record in self.records() if record.body["kind"] == "reserved"]
        return Spent(**totals[-1]) if totals else Spent()

    def reservation(self, federation: str, number: int) -> Record | None:
        """The reservation of a round, if it was charged before."""
        for record in self.records():
            body = record.body
            if body["kind"] == "reserved" and (body["federation"], body["round"]) == (federation, number):
                return record
        return None

    def price(self, charge: Charge) -> Spent:
        """The totals as they would stand after this charge."""
        spent = self.spent()
        if charge.release is None:
            return replace(spent, epsilon=None, epsilon_of_sequence=None, releases=spent.releases + 1)
        divergence = spent.divergence + accountant.renyi(charge.release, self.terms.order)
        tail = spent.delta_tail + charge.delta_tail
        delta = self.terms.delta - tail
        noised = accountant.filter_epsilon(divergence, self.terms.order, delta)
        if not math.isfinite(noised):
            raise BudgetSpent("The ledger's delta is used up.", "This ledger pays for no further release.")
        if spent.epsilon is None:
            return Spent(divergence, tail, None, None, noised, spent.releases + 1)
        of_sequence = accountant.sequence_epsilon([*self._releases(), charge.release], delta)
        return Spent(divergence, tail, noised, of_sequence, noised, spent.releases + 1)

    def require(self, after: Spent, limit: float | None = None) -> None:
        """Raises BudgetSpent unless the totals stay within the ledger's budget and a tighter `limit`.

        Something without noise has no price: whether it may leave is the policy's question, answered elsewhere.
        """
        budget = min(self.terms.epsilon, limit if limit is not None else math.inf)
        if after.epsilon_noised > budget:
            raise BudgetSpent(
                f"This round would bring the ledger to {guarantee(after.epsilon_noised, self.terms.delta)};"
                f" the budget is epsilon {budget:g}.",
                "Nothing was trained and nothing left. The budget is this site's promise: take part again only under"
                " a plan with more noise (see: fedsite privacy show).",
            )

    def reserve(self, charge: Charge, limit: float | None = None) -> Record:
        """Charges a round durably, or gives back the reservation it has.

        Raises BudgetSpent, and RecordsDamaged when the round was reserved on other terms: what was paid for less noise
        must not be spent on another release.
        """
        with self._state.transaction():
            if existing := self.reservation(charge.federation, charge.round):
                wanted = asdict(charge)
                if any(existing.body[name] != wanted[name] for name in _BINDING):
                    raise RecordsDamaged(
                        f"Round {charge.round} was reserved for another plan, ticket or mechanism.",
                        "Nothing left. Keep the state folder for the auditor.",
                    )
                return existing
            after = self.price(charge)
            self.require(after, limit)
            body = {
                "kind": "reserved",
                **{key: value for key, value in asdict(charge).items() if key != "release"},
                "effective": asdict(charge.release) if charge.release else None,
                "delta": self.terms.delta,
                "order": self.terms.order,
                "before": asdict(self.spent()),
                "after": asdict(after),
                "accountant": accountant.accountant_version(),
            }
            return self._state.append("ledger", body)

    def release(self, reservation: Record, payload_sha256: str, payload_bytes: int) -> Record:
        """Binds a reservation to its one payload. The same digest again is the same record; another raises."""
        with self._state.transaction():
            existing = self._of("released", reservation.sequence)
            if existing is not None:
                if existing.body["payload_sha256"] != payload_sha256:
                    raise RecordsDamaged(
                        f"Round {reservation.body['round']} has released another payload already.",
                        "Nothing left. Keep the state folder for the auditor.",
                    )
                return existing
            body: dict[str, Any] = {
                "kind": "released",
                "reservation": reservation.sequence,
                "federation": reservation.body["federation"],
                "round": reservation.body["round"],
                "payload_sha256": payload_sha256,
                "payload_bytes": payload_bytes,
            }
            return self._state.append("ledger", body)

    def acknowledge(self, reservation: Record, receipt_sha256: str) -> Record:
        """Keeps the digest of the server's receipt."""
        with self._state.transaction():
            existing = self._of("acknowledged", reservation.sequence)
            if existing is not None:
                return existing
            body: dict[str, Any] = {
                "kind": "acknowledged",
                "reservation": reservation.sequence,
                "federation": reservation.body["federation"],
                "round": reservation.body["round"],
                "receipt_sha256": receipt_sha256,
            }
            return self._state.append("ledger", body)

    def released(self, reservation: Record) -> Record | None:
        """The record that binds a reservation to its payload, if there is one."""
        return self._of("released", reservation.sequence)

    def _of(self, kind: str, reservation: int) -> Record | None:
        for record in self._state.records("ledger", after=reservation):
            if record.body["kind"] == kind and record.body["reservation"] == reservation:
                return record
        return None

    def _releases(self) -> list[Release]:
        bodies = [record.body for record in self.records() if record.body["kind"] == "reserved"]
        return [Release(**body["effective"]) for body in bodies if body["effective"]]
