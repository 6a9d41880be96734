"""The server's process: one socket, one event loop, and a thread that keeps rounds moving."""

import ctypes
import logging
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import FrameType

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from fedsite.errors import CannotWrite, ConfigurationError, TryAgainLater
from fedsite.server.authority.authority import LIFETIME
from fedsite.server.authority.context import server_context
from fedsite.server.federation import Federation, renew_server_certificate
from fedsite.server.rounds import rounds
from fedsite.server.web import metrics
from fedsite.server.web.app import create_app
from fedsite.server.web.tls import protocol

TICK_SECONDS = 0.5
RENEWAL_INTERVAL = timedelta(minutes=1)
"""How often it is seen whether the server's certificate must be renewed: by the clock that certificates go by, which
may be put right, or have gone on while a machine was asleep.
"""

WHILE_AWAY_SECONDS = 2.0
AFTER_FAILURE_SECONDS = 30.0
LAST_GOODBYE_SECONDS = 5
THREADS = 8
"""For files and the database, whatever the number of sites: each has memory of its own (stack, heap, connection)."""

M_ARENA_MAX = -8  # of glibc's malloc.h
AUTHORITY_ENDS_SOON = 2 * LIFETIME

log = logging.getLogger("fedsite.server")


class Ticker:
    """Calls `rounds.advance` when something is due: at every tick, and at once when woken."""

    def __init__(self, federation: Federation, context: ssl.SSLContext) -> None:
        self._federation, self._context = federation, context
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Something has happened that may close a round."""
        self._woken.set()

    def stop(self) -> None:
        """Ends the thread, or leaves it behind in the middle of an aggregation: that will simply be repeated."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(LAST_GOODBYE_SECONDS)

    def _run(self) -> None:
        looked = datetime.min.replace(tzinfo=UTC)
        while not self._stopping.is_set():
            try:
                rounds.advance(self._federation)
                if abs((now := self._federation.clock()) - looked) >= RENEWAL_INTERVAL:
                    looked = now
                    if renew_server_certificate(self._federation):
                        self._context.load_cert_chain(self._federation.server_certificate)
                pause = TICK_SECONDS
            except TryAgainLater as error:
                log.warning("rounds wait: %s", error)
                pause = WHILE_AWAY_SECONDS
            except Exception:
                log.exception("rounds cannot go on; the next attempt follows in %d s", AFTER_FAILURE_SECONDS)
                pause = AFTER_FAILURE_SECONDS
            self._woken.wait(pause)
            self._woken.clear()


def serve(
    federation: Federation, host: str, port: int, listening: Callable[[str], None], metrics_port: int | None = None
) -> None:
    """Serves until SIGTERM or SIGINT. `listening` is told the address once connections are taken.

    Metrics are told on this machine's `metrics_port`, if there is one, and never on the port of the sites. Raises
    CannotWrite when an address cannot be had, ConfigurationError when the authority has ended.
    """
    _share_heaps()
    _check_authority(federation)
    renew_server_certificate(federation)
    rounds.tidy(federation)
    context = server_context(federation.server_certificate, federation.ca_certificate)
    ticker, tally = Ticker(federation, context), metrics.Tally()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = THREADS
        ticker.start()
        yield
        ticker.stop()

    config = uvicorn.Config(
        tally.around(create_app(federation, ticker.wake, lifespan)),
        http=protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_context_factory=lambda _config, _default: context,
        timeout_graceful_shutdown=LAST_GOODBYE_SECONDS,
    )
    with ExitStack() as stack:
        bound = stack.enter_context(_bound(host, port))
        if metrics_port is not None:
            address = stack.enter_context(metrics.listener(federation, tally, metrics_port))
            log.info("metrics are at %s", address)
        listening(f"https://{host}:{bound.getsockname()[1]}")
        _run_until_told(uvicorn.Server(config), bound)


def _share_heaps() -> None:
    """Has all threads allocate from two heaps. glibc gives each thread one of its own, and what lies free in one is of
    no use to another: with many sites at once that was a tenth of the memory (mallopt(3)).
    """
    with suppress(AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _check_authority(federation: Federation) -> None:
    """Says that the authority ends soon; raises ConfigurationError when it has ended."""
    authority = federation.authority
    mend = "Bring another intermediate of the same root: fedsite server authority replace."
    if not authority.intermediates:
        mend = "A root cannot be replaced: make a new federation and invite the sites to it."
    if authority.ends <= federation.clock():
        raise ConfigurationError(f"The federation's certificate authority has ended on {authority.ends}.", mend)
    if authority.ends - federation.clock() < AUTHORITY_ENDS_SOON:
        log.warning("the federation's certificate authority ends on %s. %s", authority.ends, mend)


def _run_until_told(server: uvicorn.Server, bound: socket.socket) -> None:
    """Runs; a SIGTERM is the ordinary end of a service, so it is not raised again once the server has shut down."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, end)
    try:
        server.run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CannotWrite(f"Cannot listen on {host}:{port}: {error.strerror}.", "Choose another --port.") from error
