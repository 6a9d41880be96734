"""A federation to be fuzzed: the whole application behind real TLS, an open round, a site with its certificate.

It runs in a thread of this process, with other limits than a real server: who sends thousands of requests would mostly
hear that these are too many. What `limits` does has tests of its own.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from socket import create_server
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding
from support.federation import draft, make, model_file, tensors, update_file

from fedsite.files import sha256_of
from fedsite.server.authority.authority import unencrypted_pem
from fedsite.server.authority.context import server_context
from fedsite.server.exchange import uploads
from fedsite.server.federation import Federation
from fedsite.server.members import enrolment
from fedsite.server.rounds import rounds, series
from fedsite.server.web.app import create_app
from fedsite.server.web.limits import Allowance, Limits
from fedsite.server.web.tls import protocol
from fedsite.wire.enrolment import new_key, signing_request, to_pem
from fedsite.wire.transfer import repr_digest

WIDE = Allowance(burst=1e9, per_second=1e9, at_once=1000)
OPEN = {"rounds": {"quorum": 1, "enough": 1000, "deadline_seconds": 36_000}}


@dataclass
class Target:
    """Where it is, what to show there, and how many requests have come."""

    federation: Federation
    url: str
    certificate: Path
    invitation: tuple[str, str]
    known: dict[str, dict[str, object]]
    requests: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        return self.federation.ca_certificate


@contextmanager
def running(folder: Path) -> Iterator[Target]:
    """A target in `folder`, until the end of the block."""
    federation = make(folder / "federation")
    known = _fill(federation, folder)
    context = server_context(federation.server_certificate, federation.ca_certificate)
    with create_server(("127.0.0.1", 0)) as bound:
        invitation = enrolment.invite(federation, "newcomer", timedelta(days=1), federation.url)
        target = Target(
            federation,
            f"https://localhost:{bound.getsockname()[1]}",
            _enrolled(federation, "fuzzer", folder / "fuzzer.pem"),
            (invitation.site, invitation.secret),
            known,
        )
        app = create_app(federation, lambda: None, limits=Limits(WIDE, WIDE))
        config = uvicorn.Config(
            _counted(app, target), http=protocol(), ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, ssl_context_factory=lambda _config, _default: context,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            end = time.monotonic() + 10
            while not server.started:
                assert time.monotonic() < end
                time.sleep(0.01)
            yield target
        finally:
            server.should_exit = True
            thread.join(10)
            federation.database.close()


def _fill(federation: Federation, folder: Path) -> dict[str, dict[str, object]]:
    """A round that has made a model, and an open one, in which an update of the fuzzer's is under way.

    Gives the values under which they can be asked for, by the names of parameters.
    """
    model = model_file(folder / "model.safetensors")
    update = update_file(folder / "update", tensors(1))
    said = uploads.Announcement(sha256_of(update), update.stat().st_size, 1, None)
    over = series.open_series(federation, draft(folder, **OPEN), model, 1)
    accepted = uploads.announce(federation, "another", over.number, said)
    part = uploads.Part(federation, accepted, 0)
    part.write(update.read_bytes())
    part.close()
    uploads.conclude(federation, "another", accepted.id)
    rounds.close_now(federation, over.number)
    row = series.open_series(federation, draft(folder, **OPEN), model, 1)
    begun = uploads.announce(federation, "fuzzer", row.number, said)
    return {
        "path": {"sha256": row.model_sha256, "number": row.number, "upload_id": begun.id},
        "headers": {"Upload-Length": str(said.size), "Upload-Offset": "0", "Repr-Digest": repr_digest(said.sha256)},
    }


def _enrolled(federation: Federation, site: str, path: Path) -> Path:
    """A site's certificate and its key, unencrypted, as the fuzzer wants them."""
    invitation, key = enrolment.invite(federation, site, timedelta(days=1), federation.url), new_key()
    request = signing_request(key, site).public_bytes(Encoding.DER)
    certificate = enrolment.enrol(federation, site, invitation.secret, request)
    assert certificate is not None
    path.write_bytes(unencrypted_pem(key) + to_pem([certificate]))
    return path


def _counted(app: Any, target: Target) -> Any:
    async def counting(scope: Any, receive: Any, send: Any) -> None:
        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                target.requests += 1
                target.statuses[message["status"]] = target.statuses.get(message["status"], 0) + 1
            await send(message)

        await app(scope, receive, noted)

    return counting
