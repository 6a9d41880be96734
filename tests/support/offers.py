"""What a lying server can say about plans and tickets: it signs with the keys of a real one, or with its own."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from support.attacks import Attack
from support.federation import Server
from support.impostor import Impostor
from support.site import Site

from fedsite.server.rows import envelope_of
from fedsite.server.store.storage import RoundRow, SeriesRow
from fedsite.site import identity
from fedsite.site.identity import IdentityFiles
from fedsite.wire import signing
from fedsite.wire.messages import Envelope, Participation, Tickets, utc_now

STRANGER, SECOND, THIRD = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (7, 8, 9))
Keys = Sequence[Ed25519PrivateKey]


@dataclass(frozen=True)
class Lie(Attack):
    """An attack by what the server says: `told` lets it say so, and the site's answer must name `complaint`."""

    complaint: str
    told: Callable[["Liar"], None]


@dataclass
class Liar:
    """A server that has served a site honestly, so far, and tells it a lie in the round after the last."""

    lying: Impostor
    plan_key: Ed25519PrivateKey
    round_key: Ed25519PrivateKey
    first_plan: Envelope
    last_plan: Envelope
    past: dict[int, Envelope]

    @classmethod
    def after(cls, server: Server, lying: Impostor) -> "Liar":
        """What it knows, from the folder of the server whose place it has taken."""
        federation = server.federation
        with federation.database.reading() as session:
            plans = [envelope_of(text) for text in session.scalars(select(SeriesRow.plan).order_by(SeriesRow.id))]
            past = {row.number: envelope_of(row.ticket) for row in session.scalars(select(RoundRow))}
        return cls(lying, federation.plan_key, federation.round_key, plans[0], plans[-1], past)

    @property
    def next_round(self) -> int:
        """The first round that nobody has seen."""
        return max(self.past) + 1

    def plan(self, keys: Keys | None = None, text: Callable[[str], str] = str, **changes: Any) -> Envelope:
        """A plan; `changes` go into its sections, `text` is what then becomes of the JSON."""
        content = json.loads(signing._decode(self.last_plan.payload))
        for name, value in changes.items():
            merge = isinstance(value, dict) and isinstance(content.get(name), dict)
            content[name] = content[name] | value if merge else value
        signers = [self.plan_key] if keys is None else keys
        return signing.sign(text(json.dumps(content)).encode(), signing.PLAN, signers)

    def ticket(
        self,
        plan: Envelope,
        number: int = 0,
        previous: Envelope | None = None,
        keys: Keys | None = None,
        **changes: Any,
    ) -> Envelope:
        """A ticket of a plan: for the next round, after the last one, unless told otherwise."""
        before = previous or self.past[max(self.past)]
        content = json.loads(signing._decode(self.past[max(self.past)].payload)) | {
            "plan_sha256": signing.digest(plan),
            "round": number or self.next_round,
            "previous_ticket": signing.digest(before),
            "opened": utc_now().isoformat(),
            "expires": (utc_now() + timedelta(minutes=5)).isoformat(),
        }
        signers = [self.round_key] if keys is None else keys
        return signing.sign(json.dumps(content | changes).encode(), signing.TICKET, signers)

    def offers(
        self, plan: Envelope | None = None, ticket: Envelope | None = None, links: Sequence[Envelope] = ()
    ) -> None:
        """Answers the next check-in with this, and the question for tickets in between with `links`."""
        plan = plan or self.plan()
        answer = Participation(plan=plan, ticket=ticket or self.ticket(plan))
        self.lying.says(participation=answer.to_bytes(), tickets=Tickets(tickets=list(links)).to_bytes())

    def says(self, content: bytes) -> None:
        """Answers the next check-in with these bytes."""
        self.lying.says(participation=content)


@contextmanager
def two_of_three(site: Site, liar: Liar) -> Iterator[None]:
    """The site holds plans to two signatures of three keys, of which the server has one."""
    files = IdentityFiles(site.state / "identity")
    pinned = identity.pinned(files)
    keys = tuple(signing.public_key(key).ed25519 for key in (liar.plan_key, SECOND, THIRD))
    identity.pin(files, replace(pinned, plan_keys=keys, plan_threshold=2))
    try:
        yield
    finally:
        identity.pin(files, pinned)
