"""What the server has shown to this site, round by round, for another site to hold against what it was shown itself.

One site alone cannot notice a server that shows each site a round of its own. Two can: they exchange a file, by mail or
by hand, and compare. The file holds signed plans and tickets, which are the same for every honest site, and nothing of
what this site has sent. Every ticket names the one before, so two sites that agree on a round agree on all before it.
"""

from dataclasses import dataclass
from pathlib import Path

from fedsite.errors import DataNotFit, RecordsDamaged, ServerBrokeProtocol, SourceMissing
from fedsite.files import write_atomically
from fedsite.jobs.plan.verification import open_offer
from fedsite.jobs.site import Site
from fedsite.site.identity import Pinned
from fedsite.wire import signing
from fedsite.wire.messages import Envelope, MalformedMessage, ShownTickets, Ticket, parse

NEWEST = 1000
LONGEST_FILE = 4 << 20


@dataclass(frozen=True)
class Compared:
    """The rounds in which this site and another one were shown the same ticket."""

    other_site: str
    rounds: tuple[int, ...]


def shown(site: Site) -> ShownTickets:
    """The plans and tickets of the newest rounds that this site has met. Raises RecordsDamaged."""
    pinned = site.pinned
    plans: dict[str, Envelope] = {}
    tickets: list[Envelope] = []
    for record in site.state.rounds(pinned.federation)[-NEWEST:]:
        if "ticket" not in record.body:
            continue  # a round that was charged after the state folder had been lost
        try:
            plan, ticket = (Envelope.model_validate(record.body[name]) for name in ("plan", "ticket"))
        except ValueError as error:
            raise RecordsDamaged(f"The ticket of round {record.round} cannot be read.") from error
        plans[signing.digest(plan)] = plan
        tickets.append(ticket)
    return ShownTickets(federation=pinned.federation, site=pinned.site, plans=list(plans.values()), tickets=tickets)


def write(site: Site, path: Path) -> int:
    """Writes the file for the other site; gives how many tickets it holds. Raises CannotWrite."""
    found = shown(site)
    write_atomically(path, found.to_bytes())
    return len(found.tickets)


def compare(site: Site, path: Path) -> Compared:
    """Holds another site's file against what this site was shown, and writes the outcome into the audit.

    Raises ServerBrokeProtocol when the server has shown two tickets for one round: both are signed by it, so the two
    files together prove it to anybody. Raises SourceMissing without the file, DataNotFit when it is none, is another
    federation's, or holds what the federation's keys have not signed: then it proves nothing.
    """
    pinned, theirs = site.pinned, _read(path)
    if theirs.federation != pinned.federation:
        raise DataNotFit(f"The file is of the federation {theirs.federation}, this site of {pinned.federation}.")
    others, own = _digests(pinned, theirs), _digests(pinned, shown(site))
    common = sorted(others.keys() & own.keys())
    for number in common:
        if others[number] != own[number]:
            message = f"The server has shown two different tickets for round {number}, one to site {theirs.site}."
            site.state.audit("refused", code=ServerBrokeProtocol.code, message=message, sha256=others[number])
            raise ServerBrokeProtocol(
                message, "Keep both files, they prove it. Take part in nothing until it is clear."
            )
    site.state.audit("tickets compared", other_site=theirs.site, rounds=len(common))
    return Compared(theirs.site, tuple(common))


def _digests(pinned: Pinned, found: ShownTickets) -> dict[int, str]:
    """The digest of each round's ticket: of those that are here, and of those that these name as the one before."""
    plans = {signing.digest(plan): plan for plan in found.plans}
    digests: dict[int, str] = {}
    for envelope in found.tickets:
        try:
            plan = plans[signing.unverified(envelope, Ticket).plan_sha256]
            ticket = open_offer(pinned, plan, envelope).ticket
        except (MalformedMessage, KeyError, ServerBrokeProtocol):
            raise DataNotFit(
                f"A ticket in the file of site {found.site} is not signed by this federation.",
                "Ask that site for the file anew: as it is, it proves nothing.",
            ) from None
        digests[ticket.round] = signing.digest(envelope)
        if ticket.previous_ticket:
            digests.setdefault(ticket.round - 1, ticket.previous_ticket)
    return digests


def _read(path: Path) -> ShownTickets:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise SourceMissing("The other site's file cannot be read.", "Name the file that it has sent.") from error
    try:
        return parse(ShownTickets, content, LONGEST_FILE)
    except MalformedMessage as error:
        raise DataNotFit(
            f"This is no file of fedsite audit tickets --out: {error}.", "Ask the other site for it anew."
        ) from None
