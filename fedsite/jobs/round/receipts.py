"""The server's receipts and this site's records, held against each other.

What the server has had and the ledger does not know makes this site the one that has forgotten
(`jobs.recovery.arrivals`, `fedsite privacy recover`). What the ledger has a signed receipt for and the server does not
know any more makes it the server: it was brought back from an older copy, and would ask for rounds a second time, under
other tickets.
"""

from dataclasses import dataclass

from fedsite.errors import RecordsDamaged, ServerBrokeProtocol
from fedsite.jobs.site import Site
from fedsite.privacy.ledger import Ledger
from fedsite.site.identity import Pinned
from fedsite.wire import signing
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import Arrival


@dataclass(frozen=True)
class Held:
    """A release that the server has signed a receipt for, by digest; `receipt_sha256` is the receipt's."""

    round: int
    payload_sha256: str
    receipt_sha256: str


def held(ledger: Ledger, federation: str) -> list[Held]:
    """Every release for which this site holds the server's receipt, by round."""
    payloads: dict[int, str] = {}
    found: dict[int, Held] = {}
    for body in (record.body for record in ledger.records()):
        if body.get("federation") != federation:
            continue
        number = body["round"]
        payloads[number] = body.get("payload_sha256") or payloads.get(number, "")
        if receipt := body.get("receipt_sha256"):
            found[number] = Held(number, payloads[number], receipt)
    return [found[number] for number in sorted(found)]


def require_remembered(site: Site, pinned: Pinned, client: FederationClient) -> None:
    """Asks for the newest receipt alone: a server that was set back has lost that one first.

    Raises ServerBrokeProtocol (audited) where the server does not know it. A server too old to tell is believed.
    """
    own = held(site.ledger, pinned.federation)
    if own:
        _compare(site, own[-1:], client.updates(after=own[-1].round - 1))


def compare(site: Site, pinned: Pinned, client: FederationClient) -> int:
    """Holds all receipts against what the server says that it has had; gives how many agree.

    Raises ServerBrokeProtocol where the server has forgotten one, RecordsDamaged where this site has.
    """
    own, arrivals = held(site.ledger, pinned.federation), client.updates()
    if arrivals is None:
        raise ServerBrokeProtocol(
            "The server is too old to tell what it has had of this site.", "Ask the coordinator to update it."
        )
    _compare(site, own, arrivals)
    known = {one.round for one in own}
    lost = [one.round for one in arrivals if one.receipt is not None and one.round not in known]
    pending = {record.round for record in site.state.rounds(pinned.federation) if record.state == "uploading"}
    if forgotten := sorted(set(lost) - pending):
        raise RecordsDamaged(
            f"The server has signed a receipt for round {forgotten[0]}, which this site's ledger does not hold.",
            "This state folder is an older copy: bring back the newest, or run fedsite privacy recover.",
        )
    return len(own)


def _compare(site: Site, own: list[Held], arrivals: list[Arrival] | None) -> None:
    if arrivals is None:
        return
    there = {one.round: one for one in arrivals}
    for mine in own:
        theirs = there.get(mine.round)
        receipt = signing.digest(theirs.receipt) if theirs and theirs.receipt else None
        if theirs is None or (theirs.update_sha256, receipt) != (mine.payload_sha256, mine.receipt_sha256):
            site.state.audit("receipt forgotten", round=mine.round, receipt_sha256=mine.receipt_sha256)
            raise ServerBrokeProtocol(
                f"The server does not know the receipt that it signed for this site's update of round {mine.round}.",
                "It was brought back from an older copy: nothing is sent until the coordinator has brought back the"
                " newest. The receipt is in: fedsite privacy export",
            )
