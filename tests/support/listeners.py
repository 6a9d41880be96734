"""What else may listen where a server or a proxy is expected: one function that talks, on a port of its own."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime

import trustme

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk) -> Iterator[int]:
    """Accepts connections one after the other and lets `talk` have them; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        lines: list[socket.socket] = []
        thread = threading.Thread(target=_accept, args=(bound, talk, lines))
        thread.start()
        try:
            yield int(bound.getsockname()[1])
        finally:
            bound.shutdown(socket.SHUT_RDWR)
            for line in lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)  # whoever waits for an answer here is not waited for
            thread.join(20)


@contextmanager
def swallowing() -> Iterator[int]:
    """A port that answers nothing, as behind a firewall that drops: its queue of connections is full."""
    with ExitStack() as open_ones:
        bound = open_ones.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = open_ones.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(bound.getsockname())
        yield int(bound.getsockname()[1])


def saying(content: bytes, heard: list[bytes] | None = None) -> Talk:
    """Says something, whatever it was asked (kept in `heard`), and hangs up."""

    def talk(line: socket.socket) -> None:
        asked = line.recv(1 << 16)
        if heard is not None:
            heard.append(asked)
        line.sendall(content)

    return talk


def silent(line: socket.socket) -> None:
    """Takes whatever comes until the other side has had enough."""
    while line.recv(1 << 16):
        pass


def speaking_tls(who: trustme.LeafCert | ssl.SSLContext, talk: Talk) -> Talk:
    """The same within TLS, as whoever that is."""
    if isinstance(who, ssl.SSLContext):
        context = who
    else:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        who.configure_cert(context)

    def talk_within(line: socket.socket) -> None:
        with context.wrap_socket(line, server_side=True) as inner:
            talk(inner)

    return talk_within


def telling(when: datetime) -> Talk:
    """The server's answer to anybody, by a clock of its own."""
    return saying(the_time(when))


def the_time(when: datetime) -> bytes:
    """`GET /v1/federation`, answered."""
    body = b'{"protocol_versions":[1]}'
    head = f"HTTP/1.1 200 OK\r\nDate: {when:%a, %d %b %Y %H:%M:%S} GMT\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _accept(bound: socket.socket, talk: Talk, lines: list[socket.socket]) -> None:
    while True:
        try:
            line, _ = bound.accept()
        except OSError:
            return
        line.settimeout(10)
        lines[:] = [line]
        with line, suppress(OSError):
            talk(line)
