"""A server that lies: it has every key of a real one, its address and its certificate, and says what a test lets it."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SPEAKS = b'{"protocol_versions":[1]}'


@dataclass
class Impostor:
    """What it answers to a request, by `METHOD /path` without the query (else 404), and what it was asked."""

    port: int
    answers: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ahead_seconds: float = 0.0

    def says(self, **answers: bytes) -> None:
        """What it says from now on: `participation`, `tickets`; it has not been asked anything yet."""
        paths = {"participation": "POST /v1/participation", "tickets": "GET /v1/tickets"}
        self.answers = {paths[name]: content for name, content in answers.items()}
        self.asked.clear()


@contextmanager
def impostor(folder: Path, port: int) -> Iterator[Impostor]:
    """Takes the place of the server of a federation's folder, at its port (0: a free one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "keys" / "server.pem")
    context.load_verify_locations(folder / "keys" / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    lying = Impostor(port)
    with _Listening(("127.0.0.1", port), _handler(lying)) as listening:
        lying.port = listening.server_address[1]
        listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield lying
        finally:
            listening.shutdown()
            thread.join()


class _Listening(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A site that hangs up is no news."""


def _handler(lying: Impostor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            line = f"{self.command} {self.path.partition('?')[0]}"
            lying.asked.append(line)
            content = SPEAKS if line == "GET /v1/federation" else lying.answers.get(line)
            self.send_response_only(404 if content is None else 200)
            self.send_header("Date", formatdate(time.time() + lying.ahead_seconds, usegmt=True))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        do_GET = do_POST = do_HEAD = do_PATCH = _answer  # noqa: N815 - the library's own spelling

        def log_message(self, *_: Any) -> None:
            """What was asked stands in `asked`."""

    return Handler
