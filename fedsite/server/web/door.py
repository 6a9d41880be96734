"""Default deny: everything is refused to a request without a valid site certificate, except what `OPEN` names.

Known paths and unknown ones alike; and to a client that asks for more than its share.
"""

import ssl
import time
from http import HTTPStatus

from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedsite.errors import TryAgainLater
from fedsite.server.federation import Federation
from fedsite.server.members import enrolment
from fedsite.server.members.sightings import Sightings
from fedsite.server.problems import Refused, busy
from fedsite.server.web.limits import Limits, Meter, hurried
from fedsite.wire.enrolment import EST

OPEN = frozenset(
    {
        ("GET", "/v1/federation"),
        ("GET", f"{EST}/cacerts"),
        ("GET", f"{EST}/csrattrs"),
        ("POST", f"{EST}/simpleenroll"),
    }
)
REENROL = f"{EST}/simplereenroll"
RECHECK_SECONDS = 1.0
"""How often a site that is sending a body is looked up again: a revoked one is cut off in the middle of it."""


class Door:
    """Default deny, as ASGI middleware: asks at every request who shows which certificate.

    The certificate comes from the TLS layer (ASGI's TLS extension, filled in by `tls`), never from a header. Who shows
    none, where none is needed, is counted by its address, a site by its name.
    """

    def __init__(self, app: ASGIApp, federation: Federation, limits: Limits) -> None:
        self._app, self._federation, self._sightings = app, federation, Sightings(federation)
        self._requests, self._certificates = Meter(limits.requests), Meter(limits.certificates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in with `scope["state"]["site"]`, or answers it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        meter = self._certificates if scope["path"] == REENROL else self._requests
        try:
            client = await self._client(scope)
            wait = meter.enter(client)
            if wait:
                raise _too_many(wait)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        except TryAgainLater as error:
            await busy(error).response()(scope, receive, send)
            return
        try:
            await self._app(scope, self._watched(scope, receive), hurried(send))
        finally:
            meter.leave(client)

    async def _client(self, scope: Scope) -> str:
        """Who asks, by the name under which it is counted; refuses as `enrolment.authenticate` does."""
        if (scope["method"], scope["path"]) in OPEN:
            host, _ = scope.get("client") or ("unknown", 0)
            return f"address {host}"
        site = await self._site(scope)
        scope.setdefault("state", {})["site"] = site
        return f"site {site}"

    async def _site(self, scope: Scope) -> str:
        chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
        certificate = ssl.PEM_cert_to_DER_cert(chain[0]) if chain else None
        return await run_in_threadpool(self._authenticated, certificate)

    def _authenticated(self, certificate: bytes | None) -> str:
        site = enrolment.authenticate(self._federation, certificate)
        self._sightings.note(site)
        return site

    def _watched(self, scope: Scope, receive: Receive) -> Receive:
        """A body's way in that ends with 403, and with the connection, once the site may send no more."""
        if "site" not in scope.get("state", {}):
            return receive
        asked = time.monotonic()

        async def watched() -> Message:
            nonlocal asked
            message = await receive()
            if time.monotonic() - asked >= RECHECK_SECONDS:
                try:
                    await self._site(scope)
                except Refused as refused:
                    refused.headers["Connection"] = "close"
                    raise
                asked = time.monotonic()
            return message

        return watched


def _too_many(wait: int) -> Refused:
    return Refused(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too-many-requests",
        f"This is more than one client may ask. Ask again in {wait} s.",
        {"Retry-After": str(wait)},
    )
