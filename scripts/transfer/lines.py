"""Sites that only move bytes, with the client that every site has: many of them fit into one process.

They ask, fetch the model (verified and durable, as always) and send an update that is sealed already.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedsite.privacy.mechanism import Sealed
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import PROTOCOL_VERSIONS, ParticipationRequest, Ticket
from fedsite.wire.signing import unverified
from fedsite.wire.transport import Exchange, TlsIdentity
from transfer.setting import Coordinator


@dataclass(frozen=True)
class Line:
    """A site's line to the server, and what went wrong on it: requests without an answer, or with one above 399."""

    client: FederationClient
    broken: list[Exchange]

    def take_part(self, update: Sealed, folder: Path) -> int:
        """One participation; gives the round's number. The model is removed again: it is one for each site."""
        answer = self.client.participate(ParticipationRequest(protocol=PROTOCOL_VERSIONS[-1], ledger_sequence=0))
        if answer.ticket is None:
            raise RuntimeError("no round is due")
        ticket = unverified(answer.ticket, Ticket)
        model = folder / f"model-of-{threading.get_ident()}.safetensors"
        self.client.download_model(ticket.model_sha256, ticket.model_bytes, model)
        self.client.upload(ticket.round, update.path, update.sha256, ledger_sequence=ticket.round)
        model.unlink()
        return ticket.round


@contextmanager
def lines(servers: Sequence[str], identities: Sequence[TlsIdentity]) -> Iterator[list[Line]]:
    """Lines of so many sites, each to the address that the server has for it."""
    with ExitStack() as stack:
        found = []
        for server, identity in zip(servers, identities, strict=True):
            broken: list[Exchange] = []

            def witness(exchange: Exchange, broken: list[Exchange] = broken) -> None:
                if not 0 < exchange.status < 400:
                    broken.append(exchange)

            client = FederationClient(server, identity, patience=600, witness=witness)
            found.append(Line(stack.enter_context(client), broken))
        yield found


@dataclass(frozen=True)
class Moved:
    """How long a round took, and each site's part of it, in seconds."""

    seconds: float
    sites: list[float]


def play(coordinator: Coordinator, sites: Sequence[Line], update: Sealed) -> Moved:
    """One round of all sites at once, from the first question until the next model is there."""
    began = time.perf_counter()

    def one(line: Line) -> tuple[int, float]:
        return line.take_part(update, coordinator.work), time.perf_counter() - began

    with ThreadPoolExecutor(len(sites)) as pool:
        ends = list(pool.map(one, sites))
    coordinator.wait_for(ends[0][0])
    return Moved(time.perf_counter() - began, [seconds for _, seconds in ends])
