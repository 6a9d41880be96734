"""What the server offers, held against what this site pinned and remembers, before any of it is believed."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from fedsite.errors import ServerBrokeProtocol
from fedsite.jobs.plan import algorithms
from fedsite.privacy.mechanism import SMALLEST_NOISE_STEPS, STEPS_PER_CLIP_NORM
from fedsite.site.identity import Pinned
from fedsite.site.state import RoundRecord
from fedsite.wire import signing
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import Envelope, MalformedMessage, Receipt, Ticket
from fedsite.wire.norms import largest_honest_norm
from fedsite.wire.plans import Plan

TELL = "Nothing was done. Tell the coordinator; the refusal is in the audit."


class Expired(ServerBrokeProtocol):
    """What is offered has ended, by this machine's clock."""


@dataclass(frozen=True)
class Offer:
    """A verified plan and ticket, with the digests by which everything else names them."""

    plan: Plan
    ticket: Ticket
    plan_sha256: str
    ticket_sha256: str


def verify_offer(pinned: Pinned, plan: Envelope, ticket: Envelope, now: datetime | None) -> Offer:
    """Opens both envelopes. Raises ServerBrokeProtocol unless they are signed, current (Expired), and belong together.

    `now` None leaves the expiry out: what was released in time is still the server's to take or refuse.
    """
    offer = open_offer(pinned, plan, ticket)
    opened, stub = offer.plan, offer.ticket
    _demand(
        stub.control_sha256 is None or opened.algorithm == "scaffold",
        f"The ticket names a control, which {opened.algorithm_name} does not have.",
    )
    if now is not None:
        _demand(now < opened.expires, "The plan has expired.", Expired)
        _demand(now < stub.expires, "The round's ticket has expired.", Expired)
    longest = timedelta(seconds=opened.rounds.deadline_seconds)
    _demand(
        stub.opened < stub.expires <= opened.expires and stub.expires - stub.opened <= longest,
        "The ticket gives the round more time than the plan does.",
    )
    check_settings(opened)
    _demand(
        opened.max_update_norm >= largest_honest_norm(opened, stub.model_bytes // 4),
        "The plan's max_update_norm is below the norm of honest noise: this site would pay for a refusal.",
    )
    return offer


def open_offer(pinned: Pinned, plan: Envelope, ticket: Envelope) -> Offer:
    """A plan and a ticket of this federation that are signed and belong together, whatever they ask and whenever.

    Raises ServerBrokeProtocol.
    """
    pinned_keys = [signing.pinned_key(key) for key in pinned.plan_keys]
    try:
        opened = signing.open_envelope(plan, Plan, signing.PLAN, pinned_keys, pinned.plan_threshold)
        stub = signing.open_envelope(ticket, Ticket, signing.TICKET, [opened.round_key])
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"The server's plan or ticket is refused: {error}.", TELL) from error
    offer = Offer(opened, stub, signing.digest(plan), signing.digest(ticket))
    _demand(opened.federation == pinned.federation == stub.federation, "The plan is another federation's.")
    _demand(stub.plan_sha256 == offer.plan_sha256, "The ticket belongs to another plan.")
    return offer


def check_settings(plan: Plan) -> None:
    """Raises OutOfRange or ServerBrokeProtocol (76) unless the plan lies within its task and the gate's grid."""
    algorithms.check(plan)
    least = SMALLEST_NOISE_STEPS / STEPS_PER_CLIP_NORM
    _demand(
        plan.privacy.noise_multiplier == 0 or plan.privacy.noise_multiplier >= least,
        f"The plan's noise multiplier is finer than the gate's grid ({least:.1g}).",
    )


def verify_chain(offer: Offer, known: list[RoundRecord], client: FederationClient) -> None:
    """Follows the tickets from the last round that this site met to the one that is offered.

    Raises ServerBrokeProtocol on a rollback, of rounds or to a plan that another one has replaced, on two tickets for
    one round, and on a link that does not fit. A site that meets its first round has nothing to compare with: it takes
    that ticket as its beginning. A round that it knows may be offered again (the server reopened it), but only under
    the same ticket.
    """
    if not known:
        return
    last = known[-1]
    number, digest = last.round, last.body["ticket_sha256"]
    plans = [record.body.get("plan_sha256") for record in known]
    same = next((record for record in known if record.round == offer.ticket.round), None)
    if same is not None:
        _demand(
            same.body["ticket_sha256"] == offer.ticket_sha256,
            f"The server shows two different tickets for round {same.round}.",
        )
        return
    _demand(offer.ticket.round > number, f"The server went back to round {offer.ticket.round}.")
    while offer.ticket.round > number + 1:
        page = client.tickets(after=number).tickets
        _demand(bool(page), "The chain of tickets has a gap.")
        for envelope in page:
            if number + 1 == offer.ticket.round:
                break
            link = _link(envelope, offer)
            _demand(link.round == number + 1 and link.previous_ticket == digest, "The chain of tickets is broken.")
            number, digest = link.round, signing.digest(envelope)
            plans.append(link.plan_sha256)
    _demand(offer.ticket.previous_ticket == digest, "The chain of tickets is broken.")
    _demand(
        plans[-1] == offer.plan_sha256 or offer.plan_sha256 not in plans,
        "The server went back to a plan that another one has replaced since.",
    )


def _link(envelope: Envelope, offer: Offer) -> Ticket:
    """A ticket between the last known round and the offered one."""
    try:
        link = signing.open_envelope(envelope, Ticket, signing.TICKET, [offer.plan.round_key])
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"A ticket of the chain is refused: {error}.", TELL) from error
    _demand(link.federation == offer.plan.federation, "A ticket of the chain is another federation's.")
    return link


def verify_receipt(envelope: Envelope, offer: Offer, site: str, sha256: str, sequence: int) -> str:
    """The digest of a good receipt. Raises ServerBrokeProtocol unless it is for exactly this release."""
    try:
        receipt = signing.open_envelope(envelope, Receipt, signing.RECEIPT, [offer.plan.receipt_key])
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"The server's receipt is refused: {error}.", TELL) from error
    found = (receipt.federation, receipt.site, receipt.round, receipt.plan_sha256, receipt.ticket_sha256)
    expected = (offer.plan.federation, site, offer.ticket.round, offer.plan_sha256, offer.ticket_sha256)
    _demand(found == expected and receipt.update_sha256 == sha256, "The receipt is for something else.")
    _demand(receipt.ledger_sequence == sequence, "The receipt names another ledger record.")
    return signing.digest(envelope)


def _demand(holds: bool, otherwise: str, kind: type[ServerBrokeProtocol] = ServerBrokeProtocol) -> None:
    if not holds:
        raise kind(otherwise, TELL)
