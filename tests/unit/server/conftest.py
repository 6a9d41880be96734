import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.federation import make
from support.offline import Bench, Clock

from fedsite.server.members import enrolment
from fedsite.server.web.app import create_app
from fedsite.server.web.limits import DEFAULT_LIMITS, Limits
from fedsite.wire.enrolment import new_key, signing_request


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    clock = Clock()
    federation = make(tmp_path / "federation", clock)
    yield Bench(federation, clock, tmp_path)
    federation.database.close()


@pytest.fixture
def site_app(bench: Bench) -> Callable[..., Any]:
    """The application as the enrolled site-a meets it, past TLS."""
    invitation = enrolment.invite(bench.federation, "site-a", timedelta(hours=1), bench.federation.url)
    request = signing_request(new_key(), "site-a").public_bytes(Encoding.DER)
    der = enrolment.enrol(bench.federation, "site-a", invitation.secret, request).public_bytes(Encoding.DER)

    def made(limits: Limits = DEFAULT_LIMITS) -> Any:
        app = create_app(bench.federation, lambda: None, limits=limits)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})["tls"] = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)]}
            await app(scope, receive, send)

        return with_peer

    return made
