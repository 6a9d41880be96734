"""A line between sites and server that does to their bytes what lines do, on a port of its own.

Behaviours are told every block that a site sends. TLS passes through as it is: a relay sees sizes, and nothing else.
"""

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

BLOCK = 2048
RETRANSMISSION_SECONDS = 0.05
GIVEN_UP_AFTER = 5


@dataclass
class Pair:
    """One connection through the relay."""

    site: socket.socket
    server: socket.socket
    sent: int = 0
    deaf: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """RST to both sides."""
        for one in (self.site, self.server):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            one.close()


Behaviour = Callable[[Pair, bytes], None]


def forward(pair: Pair, block: bytes) -> None:
    """A good line."""
    pair.server.sendall(block)


def at_some(places: Iterator[int], act: Callable[[Pair], None]) -> Behaviour:
    """Does something to a connection once it has carried so many bytes to the server: one place for each connection,
    good lines when there are no more.
    """
    chosen: dict[int, int] = {}

    def behave(pair: Pair, block: bytes) -> None:
        place = chosen.setdefault(id(pair), next(places, 1 << 40))
        pair.sent += len(block)
        if pair.sent < place:
            forward(pair, block)
        else:
            act(pair)

    return behave


def resetting(places: Iterator[int]) -> Behaviour:
    """The connection is reset, with the block that was under way."""
    return at_some(places, Pair.reset)


def swallowing(places: Iterator[int]) -> Behaviour:
    """From there on nothing arrives in either direction, and nobody is told: half-open, as firewalls do it."""
    return at_some(places, lambda pair: pair.deaf.set())


def losing_answers(places: Iterator[int]) -> Behaviour:
    """The request arrives, its answer does not: the connection ends instead."""

    def behave(pair: Pair, block: bytes) -> None:
        pair.sent += len(block)
        if pair.sent >= chosen.setdefault(id(pair), next(places, 1 << 40)):
            pair.deaf.set()
            forward(pair, block)
            time.sleep(0.3)
            pair.reset()
        else:
            forward(pair, block)

    chosen: dict[int, int] = {}
    return behave


def lossy(share: float, seed: int) -> Behaviour:
    """Every block is lost with this chance; what TCP makes of it is time, doubled at each loss, and at last a cut."""
    chance = random.Random(seed)

    def behave(pair: Pair, block: bytes) -> None:
        for times in range(GIVEN_UP_AFTER):
            if chance.random() >= share:
                return forward(pair, block)
            time.sleep(RETRANSMISSION_SECONDS * 2**times)
        return pair.reset()

    return behave


def slow(bytes_per_second: float) -> Behaviour:
    """A link of so many bytes a second, each connection's own."""

    def behave(pair: Pair, block: bytes) -> None:
        time.sleep(len(block) / bytes_per_second)
        forward(pair, block)

    return behave


@contextmanager
def relayed(port: int, behave: Behaviour) -> Iterator[int]:
    """Relays connections to a port of this machine; gives the relay's own."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        pairs: list[Pair] = []
        threading.Thread(target=_accept, args=(bound, port, behave, pairs), daemon=True).start()
        try:
            yield int(bound.getsockname()[1])
        finally:
            bound.shutdown(socket.SHUT_RDWR)
            for pair in pairs:
                pair.reset()


def _accept(bound: socket.socket, port: int, behave: Behaviour, pairs: list[Pair]) -> None:
    while True:
        try:
            site, _ = bound.accept()
        except OSError:
            return
        try:
            pair = Pair(site, socket.create_connection(("127.0.0.1", port)))
        except OSError:  # the server is just not there
            site.close()
            continue
        pairs.append(pair)
        for pump in (_up, _down):
            threading.Thread(target=pump, args=(pair, behave), daemon=True).start()


def _up(pair: Pair, behave: Behaviour) -> None:
    with suppress(OSError):
        while block := pair.site.recv(BLOCK):
            if not pair.deaf.is_set():
                behave(pair, block)
        if not pair.deaf.is_set():
            pair.server.shutdown(socket.SHUT_WR)


def _down(pair: Pair, _: Behaviour) -> None:
    with suppress(OSError):
        while block := pair.server.recv(BLOCK):
            if not pair.deaf.is_set():
                pair.site.sendall(block)
        if not pair.deaf.is_set():
            pair.reset()
