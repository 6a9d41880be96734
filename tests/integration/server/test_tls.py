"""The peer's certificate in the ASGI scope, under both of uvicorn's HTTP/1.1 protocols."""

import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from support.federation import make, write_identity

from fedsite.server.authority.context import server_context
from fedsite.server.web import tls
from fedsite.wire import enrolment
from fedsite.wire.messages import utc_now
from fedsite.wire.transport import trusting


async def tells_the_peer(scope, receive, send) -> None:
    """An application that answers with what TLS told it."""
    assert scope["type"] == "http"
    body = json.dumps(scope["extensions"]["tls"]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("kind", ["httptools", "h11"])
def test_the_application_is_told_of_the_peer(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "h11":
        monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    assert (tls.protocol() is tls.H11WithPeer) == (kind == "h11")
    federation = make(tmp_path / "federation")
    root = federation.ca_certificate.read_bytes()
    key = enrolment.new_key()
    certificate = enrolment.to_pem([federation.authority.issue_site(key.public_key(), "site-a", utc_now())])
    identity = write_identity(tmp_path, certificate, enrolment.key_to_pem(key, "a passphrase"), root)
    context = server_context(federation.server_certificate, federation.ca_certificate)
    assert context.verify_mode == ssl.CERT_OPTIONAL
    config = uvicorn.Config(
        tells_the_peer, http=tls.protocol(), lifespan="off", log_config=None,
        ssl_context_factory=lambda _config, _default: context,
    )  # fmt: skip
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            url = f"https://localhost:{bound.getsockname()[1]}/"
            end = time.monotonic() + 10
            while not server.started:
                assert time.monotonic() < end
                time.sleep(0.01)
            forged = {"X-Client-Cert": "forged", "X-SSL-Client-Verify": "SUCCESS"}
            with httpx.Client(verify=trusting(root), trust_env=False) as nobody:
                assert nobody.get(url, headers=forged).json() == {"client_cert_chain": []}
            with httpx.Client(verify=identity.context(), trust_env=False) as site:
                for _ in range(2):
                    assert site.get(url).json() == {"client_cert_chain": [certificate.decode()]}
        finally:
            server.should_exit = True
            thread.join(10)
