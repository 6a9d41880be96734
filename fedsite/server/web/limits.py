"""What one client may take of the server: the head of a request, how often it asks, how much of it at once.

uvicorn reads a request's head without end and without hurry, and counts nobody's requests. Who shows no certificate is
counted by its address, a site by its name. The counts are of one process and forgotten with it.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Send

HEAD_BYTES = 64 << 10
HEAD_SECONDS = 20.0
SEND_SECONDS = 600.0
"""How long a peer may take for one block of an answer, a megabyte at most: lines of hospitals are slow."""

SILENT_SECONDS = 60.0
"""How long the log says nothing more of a client that goes on asking for too much."""

MAX_CLIENTS = 10_000
"""Clients that are remembered; beyond, those that asked longest ago are forgotten."""

log = logging.getLogger("fedsite.server")


class BoundedHead(asyncio.Protocol):
    """What is added to uvicorn's protocols: a connection whose next request does not get to its body in time ends."""

    transport: asyncio.Transport
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first request is awaited from here on."""
        super().connection_made(transport)
        self._head_begins()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head_ends()
        super().connection_lost(exc)

    def _head_begins(self) -> None:
        if self._end is None:
            self._end = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.abort)

    def _head_ends(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    @property
    def _awaits_head(self) -> bool:
        return self._end is not None


class BoundedHeadH11(BoundedHead):
    """For the protocol in pure Python, whose parser bounds a head's size (64 KiB) by itself."""

    cycle: Any

    def data_received(self, data: bytes) -> None:
        """Bytes that have not begun a request are half a head."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._head_begins()
        else:
            self._head_ends()


class BoundedHeadHttpTools(BoundedHead):
    """For the fast protocol, whose parser collects a head of any size."""

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Counts what comes while the head lasts; the parser is given the bytes first, to know where it ends."""
        super().data_received(data)
        if self._awaits_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """The parser has seen a request's first byte."""
        self._head_begins()
        self._head_bytes = 0
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        """The parser has seen the head's end."""
        self._head_ends()
        super().on_headers_complete()  # type: ignore[misc]


@dataclass(frozen=True)
class Allowance:
    """How many requests a client may make at once after a pause, how many a second in the long run, and how many
    may be under way at the same time.
    """

    burst: float
    per_second: float
    at_once: int


@dataclass(frozen=True)
class Limits:
    """What a server allows each client. Certificates are few: each stays in the database for ever."""

    requests: Allowance = Allowance(burst=300, per_second=10, at_once=4)
    certificates: Allowance = Allowance(burst=10, per_second=10 / 86_400, at_once=1)


DEFAULT_LIMITS = Limits()


@dataclass
class _Account:
    tokens: float
    since: float
    under_way: int = 0
    told: float = -math.inf


class Meter:
    """Token buckets, one a client. Used from the event loop alone, so it needs no lock."""

    def __init__(self, allowance: Allowance, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance, self._clock = allowance, clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def enter(self, client: str) -> int:
        """0 when a client's request may begin (then `leave` must follow), else the seconds after which to ask again."""
        account, allowance = self._account(client), self._allowance
        if account.tokens >= 1 and account.under_way < allowance.at_once:
            account.tokens -= 1
            account.under_way += 1
            return 0
        if self._clock() - account.told >= SILENT_SECONDS:
            log.warning("%s asks for more than its share", client)
            account.told = self._clock()
        return max(1, math.ceil((1 - account.tokens) / allowance.per_second))

    def leave(self, client: str) -> None:
        """A request that was let in has ended."""
        if client in self._accounts:
            account = self._accounts[client]
            account.under_way = max(0, account.under_way - 1)

    def _account(self, client: str) -> _Account:
        now = self._clock()
        account = self._accounts.setdefault(client, _Account(self._allowance.burst, now))
        self._accounts.move_to_end(client)
        if len(self._accounts) > MAX_CLIENTS:
            self._accounts.popitem(last=False)
        gained = (now - account.since) * self._allowance.per_second
        account.tokens, account.since = min(self._allowance.burst, account.tokens + gained), now
        return account


def hurried(send: Send) -> Send:
    """An answer's way out that ends with TimeoutError when the peer does not take it."""

    async def hurry(message: Message) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await send(message)

    return hurry
