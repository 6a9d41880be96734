"""Default deny: everything is refused to a request without a valid site certificate, except what `OPEN` names.

Known paths and unknown ones alike.
"""

import ssl

from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from fedsite.server import enrolment
from fedsite.server.federation import Federation
from fedsite.server.problems import Refused
from fedsite.wire.enrolment import EST

OPEN = frozenset({("GET", "/v1/federation"), ("GET", f"{EST}/cacerts"), ("POST", f"{EST}/simpleenroll")})


class Door:
    """Default deny, as ASGI middleware: asks at every request who shows which certificate.

    The certificate comes from the TLS layer (ASGI's TLS extension, filled in by `tls`), never from a header.
    """

    def __init__(self, app: ASGIApp, federation: Federation) -> None:
        self._app, self._federation = app, federation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in with `scope["state"]["site"]`, or answers it."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) not in OPEN:
            chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
            certificate = ssl.PEM_cert_to_DER_cert(chain[0]) if chain else None
            try:
                site = await run_in_threadpool(enrolment.authenticate, self._federation, certificate)
            except Refused as refused:
                await refused.response()(scope, receive, send)
                return
            scope.setdefault("state", {})["site"] = site
        await self._app(scope, receive, send)
