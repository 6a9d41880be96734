"""What a server may show a site, and what makes it a liar."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsite.errors import FedsiteError, ServerBrokeProtocol
from fedsite.jobs.plan.verification import Offer, verify_chain, verify_offer, verify_receipt
from fedsite.site.identity import Pinned
from fedsite.site.state import RoundRecord
from fedsite.tasks.description import OutOfRange
from fedsite.wire import signing
from fedsite.wire.messages import Envelope, Tickets

PLAN_KEY, SECOND_KEY, ROUND_KEY, RECEIPT_KEY, STRANGER = (
    Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 6)
)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
PINNED = Pinned("https://server", "north", "strokes", (signing.public_key(PLAN_KEY).ed25519,), 1, "0" * 64)


def json_key(key: Ed25519PrivateKey) -> dict[str, str]:
    return signing.public_key(key).model_dump()


def plan(key: Ed25519PrivateKey = PLAN_KEY, **changes: Any) -> Envelope:
    body = {
        "schema": 1,
        "federation": "strokes",
        "plan": "first",
        "task": "stroke-dwi",
        "channels": ["dwi"],
        "preparation": {"input_state": "whole-head", "spacing_mm": [3, 3, 3]},
        "network": {"name": "unet", "settings": {}},
        "algorithm": "fedavg",
        "local": {"steps": 8},
        "privacy": {"mechanism": "gaussian-update", "clip_norm": 1, "noise_multiplier": 0.5},
        "max_update_norm": 1000,
        "rounds": {"quorum": 2, "deadline_seconds": 2 * 86_400},
        "expires": "2026-12-31T00:00:00Z",
        "round_key": json_key(ROUND_KEY),
        "receipt_key": json_key(RECEIPT_KEY),
    }
    return signing.sign(json.dumps(body | changes).encode(), signing.PLAN, [key])


def ticket(
    of: Envelope, number: int, previous: Envelope | None = None, key: Ed25519PrivateKey = ROUND_KEY, **changes: Any
) -> Envelope:
    body = {
        "federation": "strokes",
        "plan_sha256": signing.digest(of),
        "round": number,
        "previous_ticket": signing.digest(previous) if previous else None,
        "model_sha256": "0" * 64,
        "model_bytes": 1000,
        "opened": "2026-05-31T00:00:00Z",
        "expires": "2026-06-02T00:00:00Z",
    }
    return signing.sign(json.dumps(body | changes).encode(), signing.TICKET, [key])


def chain(of: Envelope, length: int) -> list[Envelope]:
    """Tickets for rounds 1 to `length`, each naming the one before."""
    tickets: list[Envelope] = []
    for number in range(1, length + 1):
        tickets.append(ticket(of, number, tickets[-1] if tickets else None))
    return tickets


def offer_of(of: Envelope, stub: Envelope) -> Offer:
    return verify_offer(PINNED, of, stub, NOW)


def met(*tickets: Envelope) -> list[RoundRecord]:
    """The rounds that a site remembers."""
    found = []
    for one in tickets:
        number = json.loads(signing._decode(one.payload))["round"]
        plan_sha256 = json.loads(signing._decode(one.payload))["plan_sha256"]
        body = {"ticket_sha256": signing.digest(one), "plan_sha256": plan_sha256}
        found.append(RoundRecord("strokes", number, "acknowledged", body, ""))
    return found


class Server:
    """Answers `tickets(after)` with what a test lets it say, and counts how often it was asked."""

    def __init__(self, *tickets: Envelope) -> None:
        self._tickets, self.asked = tickets, 0

    def tickets(self, after: int) -> Tickets:
        self.asked += 1
        return Tickets(tickets=list(self._tickets))


# --- the offer ------------------------------------------------------------------------------------------------------


def test_a_good_offer_is_believed() -> None:
    of = plan()
    offer = offer_of(of, ticket(of, 1))
    assert (offer.plan.federation, offer.ticket.round) == ("strokes", 1)
    assert offer.plan_sha256 == signing.digest(of)


Made = Callable[[], tuple[Envelope, Envelope]]


def _with_plan(of: Envelope, **changes: Any) -> tuple[Envelope, Envelope]:
    return of, ticket(of, 1, **changes)


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: _with_plan(plan(STRANGER)), "needed signatures are good"),
        (lambda: _with_plan(plan(ROUND_KEY)), "needed signatures are good"),
        (lambda: _with_plan(plan(), key=STRANGER), "needed signatures are good"),
        (lambda: _with_plan(plan(), key=PLAN_KEY), "needed signatures are good"),
        (lambda: _with_plan(plan(), key=RECEIPT_KEY), "needed signatures are good"),
        (lambda: (plan(), ticket(plan(plan="other"), 1)), "belongs to another plan"),
        (lambda: _with_plan(plan(federation="others")), "another federation's"),
        (lambda: _with_plan(plan(), federation="others"), "another federation's"),
        (lambda: _with_plan(plan(federation="others"), federation="others"), "another federation's"),
        (lambda: _with_plan(plan(expires="2026-05-31T23:59:59Z")), "The plan has expired"),
        (lambda: _with_plan(plan(expires="2026-06-01T00:00:00Z")), "The plan has expired"),
        (lambda: _with_plan(plan(), expires="2026-05-31T23:59:59Z"), "ticket has expired"),
        (lambda: _with_plan(plan(), expires="2026-06-02T00:00:01Z"), "more time than the plan"),
        (lambda: _with_plan(plan(expires="2026-06-01T23:59:59Z")), "more time than the plan"),
        (lambda: _with_plan(plan(), opened="2026-06-02T00:00:00Z"), "more time than the plan"),
        (lambda: _with_plan(plan(), opened="0001-01-01T00:00:00+23:59"), "more time than the plan"),
        (lambda: _with_plan(plan(surprise=1)), "Extra inputs"),
        (lambda: _with_plan(plan(), surprise=1), "Extra inputs"),
        (lambda: _with_plan(plan(max_update_norm=float("nan"))), "NaN is no JSON number"),
        (lambda: _with_plan(plan(channels=["adc", "dwi"])), "channel"),
        (lambda: _with_plan(plan(channels=["flair"])), "channel"),
        (lambda: _with_plan(plan(task="mind-reading")), "no task 'mind-reading'"),
        (lambda: _with_plan(plan(network={"name": "transformer", "settings": {}})), "transformer"),
        (lambda: _with_plan(plan(network={"name": "unet", "settings": {"depth": 3}})), "depth"),
        (lambda: _with_plan(plan(network={"name": "unet", "settings": {"channels": [8, 4096]}})), "channels"),
        (lambda: _with_plan(plan(network={"name": "unet", "settings": {"channels": 16}})), "channels"),
        (lambda: _with_plan(plan(local={"steps": 8, "patch_voxels": [40, 40, 40], "batch_size": 0})), "batch_size"),
        (lambda: _with_plan(plan(algorithm="fedbn")), "normalisation of this unet has no weights"),
        (lambda: _with_plan(plan(algorithm="scaffold")), "scaffold needs local steps of optimizer sgd"),
        (lambda: _with_plan(plan(algorithm={"name": "fedprox", "mu": 0})), "mu"),
        (lambda: _with_plan(plan(algorithm={"name": "personal", "keep": "everything"})), "keep"),
        (lambda: _with_plan(plan(), control_sha256="0" * 64), "names a control, which fedavg does not have"),
        (lambda: (ticket(plan(), 1), ticket(plan(), 1)), "does not hold"),
        (lambda: (plan(), plan()), "does not hold"),
    ],
)
def test_a_bad_offer_is_refused_with_76(made: Made, complaint: str) -> None:
    of, stub = made()
    with pytest.raises(FedsiteError, match=complaint) as refused:
        offer_of(of, stub)
    assert isinstance(refused.value, ServerBrokeProtocol | OutOfRange)
    assert refused.value.exit_code == 76


def test_as_many_coordinators_as_were_pinned_must_sign() -> None:
    both = (signing.public_key(PLAN_KEY).ed25519, signing.public_key(SECOND_KEY).ed25519)
    strict = Pinned("https://server", "north", "strokes", both, 2, "0" * 64)
    content = signing._decode(plan().payload)
    one = signing.sign(content, signing.PLAN, [PLAN_KEY])
    twice = signing.sign(content, signing.PLAN, [PLAN_KEY, PLAN_KEY])
    two = signing.sign(content, signing.PLAN, [PLAN_KEY, SECOND_KEY])
    for envelope in (one, twice):
        with pytest.raises(ServerBrokeProtocol, match="1 of 2"):
            verify_offer(strict, envelope, ticket(envelope, 1), NOW)
    verify_offer(strict, two, ticket(two, 1), NOW)


def test_what_was_released_in_time_may_be_sent_late() -> None:
    of = plan()
    verify_offer(PINNED, of, ticket(of, 1, opened="2019-12-31T00:00:00Z", expires="2020-01-01T00:00:00Z"), None)
    with pytest.raises(ServerBrokeProtocol):
        verify_offer(PINNED, of, ticket(of, 1, federation="others"), None)


# --- the chain ------------------------------------------------------------------------------------------------------


def test_the_first_round_that_a_site_meets_is_its_beginning() -> None:
    of = plan()
    server = Server()
    verify_chain(offer_of(of, chain(of, 7)[6]), [], server)
    assert server.asked == 0


def test_the_next_round_follows_without_asking() -> None:
    of = plan()
    tickets, server = chain(of, 4), Server()
    verify_chain(offer_of(of, tickets[3]), met(*tickets[:3]), server)
    assert server.asked == 0


def test_the_same_round_again_is_the_same_ticket() -> None:
    of = plan()
    tickets, server = chain(of, 3), Server()
    verify_chain(offer_of(of, tickets[2]), met(*tickets), server)
    assert server.asked == 0


def test_a_site_that_was_away_follows_the_links() -> None:
    of = plan()
    tickets = chain(of, 6)
    for links in (tickets[2:5], tickets[2:6]):
        server = Server(*links)
        verify_chain(offer_of(of, tickets[5]), met(*tickets[:2]), server)
        assert server.asked == 1


def test_two_tickets_for_one_round_are_equivocation() -> None:
    of = plan()
    tickets = chain(of, 3)
    other = ticket(of, 3, tickets[1], model_sha256="f" * 64)
    with pytest.raises(ServerBrokeProtocol, match="two different tickets for round 3"):
        verify_chain(offer_of(of, other), met(*tickets), Server())
    with pytest.raises(ServerBrokeProtocol, match="two different tickets for round 2"):
        verify_chain(offer_of(of, ticket(of, 2, None)), met(*tickets), Server())


def test_an_earlier_round_is_a_rollback() -> None:
    of = plan()
    tickets = chain(of, 6)
    with pytest.raises(ServerBrokeProtocol, match="went back to round 3"):
        verify_chain(offer_of(of, tickets[2]), met(*tickets[3:5]), Server())


@pytest.mark.parametrize(
    "links",
    [
        pytest.param([], id="none"),
        pytest.param([3, 4], id="one missing at the end"),
        pytest.param([4, 5], id="one missing at the beginning"),
        pytest.param([3, 5], id="one missing inside"),
        pytest.param([4, 3, 5], id="out of order"),
        pytest.param([3, 3, 4, 5], id="one twice"),
        pytest.param([2, 3, 4, 5], id="one that is known"),
    ],
)
def test_a_broken_chain_is_refused(links: list[int]) -> None:
    of = plan()
    tickets = chain(of, 6)
    server = Server(*(tickets[number - 1] for number in links))
    with pytest.raises(ServerBrokeProtocol, match="chain of tickets"):
        verify_chain(offer_of(of, tickets[5]), met(*tickets[:2]), server)


def test_a_link_to_another_past_is_refused() -> None:
    of = plan()
    tickets = chain(of, 3)
    forked = ticket(of, 4, ticket(of, 3, None))
    with pytest.raises(ServerBrokeProtocol, match="chain of tickets"):
        verify_chain(offer_of(of, forked), met(*tickets), Server())
    without = ticket(of, 4, None)
    with pytest.raises(ServerBrokeProtocol, match="chain of tickets"):
        verify_chain(offer_of(of, without), met(*tickets), Server())


def test_a_link_that_somebody_else_signed_is_refused() -> None:
    of = plan()
    tickets = chain(of, 3)
    forged = ticket(of, 4, tickets[2], key=STRANGER)
    last = ticket(of, 5, forged)
    with pytest.raises(ServerBrokeProtocol, match="A ticket of the chain is refused"):
        verify_chain(offer_of(of, last), met(*tickets), Server(forged))


def test_a_plan_that_was_replaced_does_not_come_back() -> None:
    """A server may hold signed plans of years; the one with the least noise must not return in a new ticket."""
    old, new = plan(), plan(plan="second")
    first = ticket(old, 1)
    second = ticket(new, 2, first)
    third = ticket(new, 3, second)
    verify_chain(offer_of(new, third), met(first, second), Server())
    for back, links in ((ticket(old, 3, second), ()), (ticket(old, 4, third), (third,))):
        with pytest.raises(ServerBrokeProtocol, match="another one has replaced"):
            verify_chain(offer_of(old, back), met(first, second), Server(*links))
    with pytest.raises(ServerBrokeProtocol, match="another one has replaced"):
        verify_chain(offer_of(old, ticket(old, 3, second)), met(first), Server(second))
    verify_chain(offer_of(old, first), met(first, second), Server())  # a round that was opened again


# --- the receipt ----------------------------------------------------------------------------------------------------


def receipt(offer: Offer, key: Ed25519PrivateKey = RECEIPT_KEY, **changes: Any) -> Envelope:
    body = {
        "federation": "strokes",
        "site": "north",
        "round": 1,
        "plan_sha256": offer.plan_sha256,
        "ticket_sha256": offer.ticket_sha256,
        "update_sha256": "d" * 64,
        "update_bytes": 100,
        "ledger_sequence": 3,
        "received": (NOW + timedelta(minutes=5)).isoformat(),
    }
    return signing.sign(json.dumps(body | changes).encode(), signing.RECEIPT, [key])


def test_a_good_receipt_has_a_digest() -> None:
    of = plan()
    offer = offer_of(of, ticket(of, 1))
    good = receipt(offer)
    assert verify_receipt(good, offer, "north", "d" * 64, 3) == signing.digest(good)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": STRANGER},
        {"key": ROUND_KEY},
        {"federation": "others"},
        {"site": "south"},
        {"round": 2},
        {"plan_sha256": "f" * 64},
        {"ticket_sha256": "f" * 64},
        {"update_sha256": "f" * 64},
        {"ledger_sequence": 4},
        {"surprise": 1},
    ],
)
def test_a_receipt_for_something_else_is_refused(changes: dict[str, Any]) -> None:
    of = plan()
    offer = offer_of(of, ticket(of, 1))
    with pytest.raises(ServerBrokeProtocol) as refused:
        verify_receipt(receipt(offer, **changes), offer, "north", "d" * 64, 3)
    assert refused.value.exit_code == 76
