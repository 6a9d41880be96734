"""The privacy ledger: charge first, then release, once.

A reservation is durable before the noise is drawn; it is never refunded and a rerun of its round uses it again.
`released` binds the reservation to one payload digest, before the first byte can leave; `acknowledged` keeps the
server's receipt. Terms (unit, relation, delta, order of the filter, budget) are fixed by the first record.

What left this site and is not in its ledger (a state folder brought back from an older copy, or lost) is charged by
`recovered` records. They get the numbers that the lost ones had, with `lost` records in between: so the server, which
knows of each update the record that released it, can tell this ledger from an older one again.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedsite.errors import BudgetSpent, NotAuthorised, RecordsDamaged, ServerBrokeProtocol
from fedsite.privacy import accountant
from fedsite.privacy.accountant import Release
from fedsite.privacy.statement import guarantee
from fedsite.site.state import MEND, NotOurs, Record, State

CHARGES = ("reserved", "recovered")
KINDS = ("created", *CHARGES, "released", "acknowledged", "lost")
"""All kinds of records. A kind is one form and one meaning: whatever changes either of them gets another name."""
MOST_LOST = 100_000  # records that one recovery makes up for


@dataclass(frozen=True)
class Terms:
    """What cannot be changed: the lifetime budget, delta, the filter's order, the typed number of patients."""

    epsilon: float
    delta: float
    order: float
    nominal_patients: int
    unit: str = "patient"
    relation: str = "add-remove"

    @classmethod
    def chosen(cls, epsilon: float, delta: float, nominal_patients: int) -> "Terms":
        """The terms that a site chooses; the order is the one that serves its budget best."""
        return cls(epsilon, delta, accountant.best_order(epsilon, delta), nominal_patients)

    def budget(self, limit: float | None) -> float:
        """What may be spent in all: the ledger's epsilon, or a tighter `limit`."""
        return self.epsilon if limit is None else min(self.epsilon, limit)


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
    `epsilon_of_sequence` is recorded by a charge; a mere price leaves it out, since what binds need not wait for it.
    """

    divergence: float = 0.0
    delta_tail: float = 0.0
    epsilon: float | None = 0.0
    epsilon_of_sequence: float | None = 0.0
    epsilon_noised: float = 0.0
    releases: int = 0


@dataclass(frozen=True)
class Lost:
    """A release of this site that its ledger may not know. `charge` None: nobody can prove what it cost.

    `sequence` is the record of the lost ledger that released it, `receipt_sha256` the server's receipt; a charge
    that is known from a damaged ledger alone has neither, nor a payload.
    """

    federation: str
    round: int
    payload_sha256: str | None
    receipt_sha256: str | None
    sequence: int | None
    charge: Charge | None


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
        if (first is None or first.body.get("kind") != "created") and state.last("audit") is not None:
            raise RecordsDamaged("This site's ledger has lost its beginning.", MEND)
        if first is None:
            raise NotAuthorised("This state folder has no privacy ledger.", "Set this site up with: fedsite init")
        self.terms = terms_of(first.body)

    @staticmethod
    def create(state: State, terms: Terms) -> "Ledger":
        """Writes the first record. Raises RecordsDamaged when there is a ledger already."""
        if state.last("ledger") is not None:
            raise RecordsDamaged("This state folder has a ledger already.", "A ledger is never started again.")
        state.append("ledger", {"kind": "created", **asdict(terms)})
        return Ledger(state)

    def records(self, after: int = 0) -> Iterator[Record]:
        """Every record beyond one, oldest first. Raises NotOurs at one that this fedsite does not understand."""
        for record in self._state.records("ledger", after):
            require_understood(record)
            yield record

    def sequence(self) -> int:
        """The last sequence number, which a site names when it checks in."""
        last = self._state.last("ledger")
        return last.sequence if last else 0

    def spent(self) -> Spent:
        """What has been charged so far, as the last reservation recorded it (nothing is computed)."""
        charges = self.charges()
        return Spent(**charges[-1].body["after"]) if charges else Spent()

    def charges(self) -> list[Record]:
        """The records that charge something, oldest first."""
        return [record for record in self.records() if record.body["kind"] in CHARGES]

    def reservation(self, federation: str, number: int) -> Record | None:
        """The reservation of a round, if it was charged before."""
        for record in self.records():
            body = record.body
            if body["kind"] == "reserved" and (body["federation"], body["round"]) == (federation, number):
                return record
        return None

    def price(self, charge: Charge, times: int = 1) -> Spent:
        """The totals as they would stand after this charge, or after so many like it; only the filter is asked."""
        after = spent_after(self.terms, self.spent(), charge, times)
        if not math.isfinite(after.epsilon_noised):
            raise BudgetSpent(
                "The ledger's delta is used up, or the mechanism's price has no bound at the ledger's order.",
                "This ledger does not pay for such a release.",
            )
        return after

    def require(self, after: Spent, limit: float | None = None) -> None:
        """Raises BudgetSpent unless the totals stay within the ledger's budget and a tighter `limit`.

        Something without noise has no price: whether it may leave is the policy's question, answered elsewhere.
        """
        budget = self.terms.budget(limit)
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
            after = replace(after, epsilon_of_sequence=self._of_sequence(charge, after))
            return self._state.append("ledger", {"kind": "reserved"} | self._charged(charge, self.spent(), after))

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
            return self._follow("released", reservation, payload_sha256=payload_sha256, payload_bytes=payload_bytes)

    def acknowledge(self, reservation: Record, receipt_sha256: str) -> Record:
        """Keeps the digest of the server's receipt."""
        with self._state.transaction():
            existing = self._of("acknowledged", reservation.sequence)
            if existing is not None:
                return existing
            return self._follow("acknowledged", reservation, receipt_sha256=receipt_sha256)

    def released(self, reservation: Record) -> Record | None:
        """The record that binds a reservation to its payload, if there is one."""
        return self._of("released", reservation.sequence)

    def recover(self, found: Iterable[Lost]) -> list[tuple[Lost, Record]]:
        """Charges what this ledger does not know, whatever its budget; gives that, each with its new record.

        A round that was reserved here and released by a copy of this ledger is paid for: its reservation is bound to
        that payload. What has no provable price takes all that the budget has left. Raises ServerBrokeProtocol where
        a record's number is beyond reason.
        """
        recovered: list[tuple[Lost, Record]] = []
        with self._state.transaction():
            known, unbound = self._known()
            spent = self.spent()
            for lost in sorted(found, key=lambda one: (one.sequence or math.inf, one.round)):
                place = lost.federation, lost.round
                if (*place, lost.payload_sha256) in known:
                    continue
                known |= {(*place, lost.payload_sha256), (*place, None)}
                self._number_as_before(lost)
                if lost.payload_sha256 and place in unbound:
                    record = self._bind(unbound.pop(place), lost.payload_sha256, lost.receipt_sha256)
                else:
                    record = self._state.append("ledger", self._recovered(lost, spent))
                    spent = Spent(**record.body["after"])
                recovered.append((lost, record))
        return recovered

    def _known(self) -> tuple[set[tuple[str, int, str | None]], dict[tuple[str, int], Record]]:
        """The payloads that are charged, and with None for one the rounds that are; reservations without a payload."""
        known: set[tuple[str, int, str | None]] = set()
        unbound: dict[tuple[str, int], Record] = {}
        for record in self.records():
            if "round" in record.body:
                place = record.body["federation"], record.body["round"]
                known |= {(*place, None), (*place, record.body.get("payload_sha256"))}
                if record.body["kind"] == "reserved":
                    unbound[place] = record
                elif record.body["kind"] == "released":
                    unbound.pop(place, None)
        return known, unbound

    def _number_as_before(self, lost: Lost) -> None:
        """Makes up for the lost records between the last one that is here and the one that released this."""
        missing = range(self.sequence() + 1, lost.sequence or 0)
        if len(missing) > MOST_LOST:
            raise ServerBrokeProtocol(
                f"The server says that round {lost.round} was released by record {lost.sequence} of a ledger that is at"
                f" {self.sequence()}.",
                "Nothing was charged. Tell the coordinator.",
            )
        for _ in missing:
            self._state.append("ledger", {"kind": "lost"})

    def _bind(self, reservation: Record, payload_sha256: str, receipt_sha256: str | None) -> Record:
        record = self._follow("released", reservation, payload_sha256=payload_sha256)
        if receipt_sha256:
            self._follow("acknowledged", reservation, receipt_sha256=receipt_sha256)
        return record

    def _follow(self, kind: str, reservation: Record, **facts: str | int) -> Record:
        """Appends what became of a reservation."""
        named = {"reservation": reservation.sequence, **{key: reservation.body[key] for key in ("federation", "round")}}
        return self._state.append("ledger", {"kind": kind, **named, **facts})

    def _recovered(self, lost: Lost, before: Spent) -> dict[str, Any]:
        """What the record of a recovered charge holds.

        The filter's epsilon stands for that of the sequence too, until the next reservation composes everything anew.
        """
        after = spent_after(self.terms, before, lost.charge) if lost.charge else None
        priced = after is not None and math.isfinite(after.epsilon_noised)
        if after is None or not priced:
            after = with_nothing_left(self.terms, before)
        return {
            "kind": "recovered",
            "federation": lost.federation,
            "round": lost.round,
            "payload_sha256": lost.payload_sha256,
            "receipt_sha256": lost.receipt_sha256,
            "priced": priced,
            **self._charged(lost.charge if priced else None, before, replace(after, epsilon_of_sequence=after.epsilon)),
        }

    def _charged(self, charge: Charge | None, before: Spent, after: Spent) -> dict[str, Any]:
        """What the record of a charge holds besides; `charge` None has no provable price."""
        asked = {key: value for key, value in asdict(charge).items() if key != "release"} if charge else {}
        return {
            **asked,
            "effective": asdict(charge.release) if charge and charge.release else None,
            "delta": self.terms.delta,
            "order": self.terms.order,
            "before": asdict(before),
            "after": asdict(after),
            "accountant": accountant.accountant_version(),
        }

    def _of_sequence(self, charge: Charge, after: Spent) -> float | None:
        """The tighter epsilon of what this ledger has charged and this; the filter's where something has no price."""
        if after.epsilon is None:
            return None
        bodies = [record.body for record in self.charges()]
        if not all(body.get("priced", True) for body in bodies):
            return after.epsilon
        releases = [Release(**body["effective"]) for body in bodies if body["effective"]]
        releases += [charge.release] if charge.release else []
        return min(after.epsilon, accountant.sequence_epsilon(releases, self.terms.delta - after.delta_tail))

    def _of(self, kind: str, reservation: int) -> Record | None:
        for record in self.records(after=reservation):
            if record.body["kind"] == kind and record.body["reservation"] == reservation:
                return record
        return None


def require_understood(record: Record) -> None:
    """Raises NotOurs for what a newer fedsite must have written: no budget is reckoned from what is not understood."""
    kind, totals = record.body.get("kind"), Spent.__dataclass_fields__.keys()
    if kind not in KINDS or (kind in CHARGES and record.body.get("after", {}).keys() != totals):
        raise NotOurs(
            f"Record {record.sequence} of the ledger is of a kind that this fedsite does not know.",
            "A newer fedsite has written it: install that one again. Nothing is charged or sent until then.",
        )


def terms_of(body: dict[str, Any]) -> Terms:
    """The terms that a ledger's first record holds. Raises KeyError where it holds none."""
    return Terms(**{name: body[name] for name in Terms.__dataclass_fields__})


def charge_of(body: dict[str, Any]) -> Charge:
    """The charge that a record holds. Raises KeyError where it holds none."""
    fields = {name: body[name] for name in Charge.__dataclass_fields__ if name != "release"}
    return Charge(**fields, release=Release(**body["effective"]) if body["effective"] else None)


def spent_after(terms: Terms, spent: Spent, charge: Charge, times: int = 1) -> Spent:
    """The totals after so many charges more. `epsilon_noised` is infinite where nothing bounds them."""
    if charge.release is None:
        return replace(spent, epsilon=None, epsilon_of_sequence=None, releases=spent.releases + times)
    divergence = spent.divergence + times * accountant.renyi(charge.release, terms.order)
    tail = spent.delta_tail + times * charge.delta_tail
    noised = accountant.filter_epsilon(divergence, terms.order, terms.delta - tail)
    return Spent(divergence, tail, None if spent.epsilon is None else noised, None, noised, spent.releases + times)


def with_nothing_left(terms: Terms, spent: Spent) -> Spent:
    """The totals after a release of unknown price: this site released nothing beyond the budget that it promised."""
    all_of_it = accountant.filter_divergence(terms.epsilon, terms.order, terms.delta - spent.delta_tail)
    return replace(
        spent,
        divergence=max(spent.divergence, all_of_it),
        epsilon=None if spent.epsilon is None else max(spent.epsilon, terms.epsilon),
        epsilon_noised=max(spent.epsilon_noised, terms.epsilon),
        releases=spent.releases + 1,
    )
