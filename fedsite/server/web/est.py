"""The routes of EST (RFC 7030, with the clarifications of RFC 8951): certificates out, requests in."""

import base64
import binascii
from http import HTTPStatus
from typing import Any

from cryptography import x509
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from fedsite.server.federation import Federation
from fedsite.server.members import enrolment
from fedsite.server.problems import Refused
from fedsite.server.web.bodies import read_body
from fedsite.wire.enrolment import EST, MAX_REQUEST_BYTES, PKCS7_TYPE, PKCS10_TYPE, encode_certificates

RETRY_SECONDS = 60
"""A person answers in minutes or in days; who sits at the terminal should not wait for longer than the telephone."""

_BASE64 = {"schema": {"type": "string", "contentEncoding": "base64"}}
_PKCS10 = {"requestBody": {"required": True, "content": {PKCS10_TYPE: _BASE64}}}
_CERTIFICATES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Certificates (PKCS#7, certs-only)", "content": {PKCS7_TYPE: _BASE64}}
}
_PENDING: dict[int | str, dict[str, Any]] = {
    202: {"description": "A person's approval is awaited", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


def add_enrolment(app: FastAPI, federation: Federation) -> None:
    """`cacerts`, `csrattrs`, `simpleenroll` and `simplereenroll`."""

    @app.get(f"{EST}/cacerts", response_class=Response, responses=_CERTIFICATES)
    def cacerts() -> Response:
        """The authority's chain, the root that sites pin among it (4.1)."""
        return _certificates(*federation.authority.chain)

    @app.get(f"{EST}/csrattrs", status_code=HTTPStatus.NO_CONTENT)
    def csrattrs() -> None:
        """What a request must hold beside its key: nothing (4.5.2)."""

    @app.post(f"{EST}/simpleenroll", response_class=Response, openapi_extra=_PKCS10, responses=_CERTIFICATES | _PENDING)
    async def simpleenroll(request: Request) -> Response:
        """The first certificate, for HTTP Basic authentication with site and secret of an invitation (4.2.1)."""
        site, secret = _basic(request.headers.get("authorization", ""))
        csr = await _request(request)
        certificate = await run_in_threadpool(enrolment.enrol, federation, site, secret, csr)
        return _pending(site) if certificate is None else _certificates(certificate)

    @app.post(f"{EST}/simplereenroll", response_class=Response, openapi_extra=_PKCS10, responses=_CERTIFICATES)
    async def simplereenroll(request: Request) -> Response:
        """The next certificate, for the present one (4.2.2)."""
        csr = await _request(request)
        return _certificates(await run_in_threadpool(enrolment.reenrol, federation, request.state.site, csr))


async def _request(request: Request) -> bytes:
    """The PKCS#10 request of a body (DER). Its Content-Transfer-Encoding says nothing (RFC 8951, 2.1)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != PKCS10_TYPE:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", f"A request is {PKCS10_TYPE}.")
    body = await read_body(request, MAX_REQUEST_BYTES)
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise Refused(HTTPStatus.BAD_REQUEST, "request-malformed", "The request is not base64.") from None


def _pending(site: str) -> Response:
    """202: the request is known, its answer is not ready (4.2.3)."""
    text = f"{site} awaits the coordinator's approval. Send the same request again later.\n"
    return PlainTextResponse(text, HTTPStatus.ACCEPTED, {"Retry-After": str(RETRY_SECONDS)})


def _basic(authorization: str) -> tuple[str, str]:
    """Site and secret of HTTP Basic authentication (RFC 7617); empty ones, which match nothing, when it is none."""
    scheme, _, value = authorization.partition(" ")
    try:
        site, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return (site, secret) if scheme.lower() == "basic" else ("", "")


def _certificates(*certificates: x509.Certificate) -> Response:
    headers = {"Content-Transfer-Encoding": "base64"}  # RFC 7030 asks for it; clients of before RFC 8951 may miss it
    return Response(encode_certificates(list(certificates)), media_type=PKCS7_TYPE, headers=headers)
