"""The end of waits that httpx's timeouts do not end: they begin anew with every byte.

A server, or whoever stands in between, may give a handshake or the head of an answer byte by byte, or take a request
so. The watchdog then shuts the line down from outside, and httpx finds it broken. Answers' bodies are read by our own
loops, which look at the clock themselves.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from threading import Timer
from typing import Any

LONGEST_WAIT = 60.0
"""Seconds for a handshake, for an answer's head, and for each block of a request."""

_WATCHED = {"start_tls", "send_request_headers", "send_request_body", "receive_response_headers"}


class Watchdog:
    """Watches the one line of an HTTP client; httpcore tells it what happens there (its extension `trace`)."""

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        self._timer: Timer | None = None

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Hears of an event, such as `http11.receive_response_headers.started`."""
        what, stage = event.split(".")[-2:]
        if (what, stage) == ("connect_tcp", "complete"):
            self.close()
            # A duplicate: TLS takes the socket itself away.
            self._line = facts["return_value"].get_extra_info("socket").dup()
        elif what in _WATCHED and stage == "started":
            self.progress()
        elif what in _WATCHED:
            self._rest()

    def progress(self) -> None:
        """Something was reached, or begins: the wait starts anew."""
        self._rest()
        if self._line is not None:
            self._timer = Timer(LONGEST_WAIT, _shut_down, [self._line])
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Lets go of the line."""
        self._rest()
        if self._line is not None:
            self._line.close()
            self._line = None

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _shut_down(line: socket.socket) -> None:
    with suppress(OSError):  # it may have ended by itself
        line.shutdown(socket.SHUT_RDWR)
