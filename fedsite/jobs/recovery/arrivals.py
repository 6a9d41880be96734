"""What the server has had of this site, by its own word, priced by the plans and tickets that were signed for it.

A price is proved by the plan, which the coordinators' pinned keys have signed, and the round's ticket, which the plan's
round key has. Nothing needs to be believed of the server but that an update arrived.
"""

from dataclasses import dataclass, field
from typing import Any

from fedsite.errors import PolicyRefused, ServerBrokeProtocol
from fedsite.jobs.plan.charging import charge_for
from fedsite.jobs.plan.verification import Offer, open_offer, verify_receipt
from fedsite.privacy.ledger import Charge, Lost, Terms
from fedsite.site.identity import Pinned
from fedsite.wire import signing
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import Arrival, Envelope, MalformedMessage, Ticket


@dataclass(frozen=True)
class Proof:
    """A round's offer, once verified, with the envelopes that prove it."""

    offer: Offer
    plan: Envelope
    ticket: Envelope

    @property
    def body(self) -> dict[str, Any]:
        """What the record of a round holds of its offer."""
        return {
            "plan": self.plan.model_dump(),
            "ticket": self.ticket.model_dump(),
            "plan_sha256": self.offer.plan_sha256,
            "ticket_sha256": self.offer.ticket_sha256,
        }

    def charge(self, terms: Terms) -> Charge | None:
        """What the round cost; None where a site of these terms would never have taken part."""
        try:
            return charge_for(self.offer, self.offer.ticket.model_bytes // 4, terms)
        except PolicyRefused:
            return None


@dataclass
class Proofs:
    """The offers of past rounds, fetched from the server when they are asked for."""

    pinned: Pinned
    client: FederationClient
    _plans: dict[str, Envelope | None] = field(default_factory=dict)
    _tickets: dict[int, Envelope] = field(default_factory=dict)

    def of(self, number: int) -> Proof | None:
        """The proof of a round; None where the server has none, or one that does not hold."""
        try:
            ticket = self._ticket(number)
            if ticket is None:
                return None
            sha256 = signing.unverified(ticket, Ticket).plan_sha256
            if sha256 not in self._plans:
                self._plans[sha256] = self.client.plan(sha256)
            plan = self._plans[sha256]
            proof = Proof(open_offer(self.pinned, plan, ticket), plan, ticket) if plan else None
        except (MalformedMessage, ServerBrokeProtocol):
            return None
        return proof if proof and proof.offer.ticket.round == number else None

    def _ticket(self, number: int) -> Envelope | None:
        if number not in self._tickets:
            page = self.client.tickets(after=number - 1).tickets
            self._tickets |= {signing.unverified(one, Ticket).round: one for one in page}
        return self._tickets.get(number)


def lost(arrivals: list[Arrival], proofs: Proofs, terms: Terms) -> list[Lost]:
    """Every update that the server has had, as the ledger would charge it if it does not know it."""
    return [_lost(one, proofs, terms) for one in arrivals]


def of_site(pinned: Pinned, client: FederationClient) -> list[Arrival]:
    """What the server has had of this site. Raises ServerBrokeProtocol where it is too old to tell."""
    arrivals = client.updates()
    if arrivals is None:
        raise ServerBrokeProtocol(
            f"The server of {pinned.federation} is too old to tell what it has had of this site.",
            "Nothing was changed. Ask the coordinator to update it.",
        )
    return arrivals


def _lost(arrival: Arrival, proofs: Proofs, terms: Terms) -> Lost:
    proof = proofs.of(arrival.round)
    return Lost(
        federation=proofs.pinned.federation,
        round=arrival.round,
        payload_sha256=arrival.update_sha256,
        receipt_sha256=_receipt(arrival, proof, proofs.pinned.site),
        sequence=arrival.ledger_sequence,
        charge=proof.charge(terms) if proof else None,
    )


def _receipt(arrival: Arrival, proof: Proof | None, site: str) -> str | None:
    """The digest of the receipt, if there is a good one. The update is charged with or without it."""
    if arrival.receipt is None or proof is None:
        return None
    try:
        return verify_receipt(arrival.receipt, proof.offer, site, arrival.update_sha256, arrival.ledger_sequence)
    except ServerBrokeProtocol:
        return None
