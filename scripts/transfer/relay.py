"""A line between sites and server that is slow and stalls, and that counts what goes over it."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

BLOCK_BYTES = 16 << 10
BUFFER_BYTES = 64 << 10
"""Of the sockets of a slow relay: how slow it is must be felt at both ends, not hidden in buffers of megabytes."""


class Relay:
    """Passes on what comes, so many bytes a second each way (None: as it comes).

    A slow line stands still for `stall_seconds` now and then, so often that it is for the share `stalls` of all time.
    `passed` counts bytes both ways, those of TLS and its handshakes included; `needed` are the seconds that the line
    was busy or stood still.
    """

    def __init__(
        self, target: tuple[str, int], rate: float | None = None, stalls: float = 0.0, stall_seconds: float = 1.0
    ) -> None:
        self.target, self.rate, self.port, self.passed, self.needed = target, rate, 0, 0, 0.0
        self._stalls_per_second, self._stall_seconds = stalls / (1 - stalls) / stall_seconds, stall_seconds
        self._chance, self._lock = random.Random(0), threading.Lock()
        self._free = {"up": 0.0, "down": 0.0}
        self._lines: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def listen(self, bound: socket.socket) -> None:
        """Takes connections until the socket is closed."""
        self.port = bound.getsockname()[1]
        if self.rate is not None:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._begin(self._accept, bound)

    def end(self) -> None:
        """Cuts all lines, and waits until nothing is passed on any more."""
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for line in self._lines:
            line.close()

    def _begin(self, work: Callable[..., None], *given: object) -> None:
        self._threads.append(threading.Thread(target=work, args=given, daemon=True))
        self._threads[-1].start()

    def _accept(self, bound: socket.socket) -> None:
        self._lines.append(bound)
        with suppress(OSError):
            while True:
                near = bound.accept()[0]
                self._lines.append(near)
                far = socket.create_connection(self.target)
                self._lines.append(far)
                for way, source, sink in (("up", near, far), ("down", far, near)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if self.rate is not None:
                        source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
                    self._begin(self._pass_on, way, source, sink)

    def _pass_on(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(BLOCK_BYTES):
                time.sleep(max(0.0, self._taken(way, len(block)) - time.monotonic()))
                sink.sendall(block)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _taken(self, way: str, size: int) -> float:
        """When the line will have carried so many bytes more that way."""
        with self._lock:
            seconds = size / self.rate if self.rate is not None else 0.0
            seconds += self._stall_seconds * (self._chance.random() < seconds * self._stalls_per_second)
            self.passed += size
            self.needed += seconds
            self._free[way] = max(self._free[way], time.monotonic()) + seconds
            return self._free[way]


@contextmanager
def relaying(
    target: tuple[str, int], rate: float | None = None, stalls: float = 0.0, stall_seconds: float = 1.0
) -> Iterator[Relay]:
    """A relay to that address, on a port of its own, while the block runs."""
    with socket.create_server((target[0], 0)) as bound:
        found = Relay(target, rate, stalls, stall_seconds)
        found.listen(bound)
        try:
            yield found
        finally:
            found.end()
