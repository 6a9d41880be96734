"""The end of waits that httpx's timeouts do not end: they begin anew with every byte.

A server, or whoever stands in between, may give a handshake or the head of an answer byte by byte, or take a request
so. The watchdog then shuts the line down from outside, and httpx finds it broken. Answers' bodies are read by our own
loops, which look at the clock themselves.
"""

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock, Timer, current_thread
from typing import Any

LONGEST_WAIT = 60.0
"""Seconds for a handshake, for an answer's head, and for each block of a request."""

_WATCHED = {"start_tls", "send_request_headers", "send_request_body", "receive_response_headers"}


class Watchdog:
    """Watches the one line of an HTTP client; httpcore tells it what happens there (its extension `trace`).

    A timer is a thread, and blocks are many: what begins anew moves the end, which the timer sees when it goes off.
    """

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        self._timer: Timer | None = None
        self._end: float | None = None
        self._lock = Lock()

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
        with self._lock:
            if self._line is not None:
                self._end = time.monotonic() + LONGEST_WAIT
                if self._timer is None:
                    self._set_timer(LONGEST_WAIT)

    def close(self) -> None:
        """Lets go of the line."""
        with self._lock:
            self._end = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._line is not None:
                self._line.close()
                self._line = None

    def _rest(self) -> None:
        with self._lock:
            self._end = None

    def _set_timer(self, seconds: float) -> None:
        self._timer = Timer(seconds, self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        """Whether a wait is at its end: then the line is shut down."""
        with self._lock:
            if self._timer is not current_thread():  # the line was let go as this timer went off
                return
            self._timer = None
            left = self._end - time.monotonic() if self._end is not None else None
            if left is not None and left > 0:
                self._set_timer(left)
            elif left is not None and self._line is not None:
                with suppress(OSError):  # it may have ended by itself
                    self._line.shutdown(socket.SHUT_RDWR)
