"""A server with the federation's own certificate that answers as it likes: what a site's client must survive."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from fedsite.server.authority.context import server_context
from fedsite.server.federation import Federation

Lie = Callable[[bytes], Iterator[bytes]]
"""From the head of a request to what is sent, piece by piece; whoever wants a pause sleeps."""


@dataclass
class Liar:
    """Where it listens, the heads of all requests that it was sent, and whether nobody waits for an answer any more."""

    port: int
    asked: list[bytes] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


SMALL_BODY = 1 << 12  # a question; of an update a liar takes no more than that


@contextmanager
def lying(federation: Federation, lie: Lie) -> Iterator[Liar]:
    """Answers every connection by `lie` until the end of the block."""
    context = server_context(federation.server_certificate, federation.ca_certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        liar = Liar(listening.getsockname()[1])
        thread = threading.Thread(target=_listen, args=[listening, context, lie, liar], daemon=True)
        thread.start()
        try:
            yield liar
        finally:
            liar.over.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _listen(listening: socket.socket, context: ssl.SSLContext, lie: Lie, liar: Liar) -> None:
    while True:
        try:
            line, _ = listening.accept()
        except OSError:
            return
        with suppress(OSError), line, context.wrap_socket(line, server_side=True) as secured:
            _answer(secured, lie, liar)


def _answer(line: ssl.SSLSocket, lie: Lie, liar: Liar) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = line.recv(1)
        if not byte:
            return
        head += byte
    liar.asked.append(head)
    length = re.search(rb"(?i)content-length: (\d+)", head)
    for _ in range(min(int(length[1]), SMALL_BODY) if length else 0):
        line.recv(1)  # or closing the line would reset it, and the answer might be lost with what was not read
    for piece in lie(head):
        if liar.over.is_set():
            return
        line.sendall(piece)
