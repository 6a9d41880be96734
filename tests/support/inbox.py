"""An address that takes what is posted to it, as a webhook or a service that misses signs of life does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_SENDMAIL = """#!/bin/sh
printf '%s\\n' "$*" > {folder}/arguments
cat >> {folder}/messages
exit {code}
"""


@dataclass
class Inbox:
    """What has come: paths and bodies, in order. `status` is what is answered."""

    port: int = 0
    status: int = 200
    came: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where it listens, on this machine."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """Where things were sent to, in order."""
        return [path for path, _ in self.came]


@contextmanager
def inbox() -> Iterator[Inbox]:
    """Opens one on a port of its own."""
    found = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.came.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join(20)


def sendmail(folder: Path, code: int = 0) -> Path:
    """A sendmail program that keeps what it is given in `messages` beside it; gives its folder, for PATH."""
    folder.mkdir()
    program = folder / "sendmail"
    program.write_text(_SENDMAIL.format(folder=folder, code=code))
    program.chmod(0o755)
    return folder
