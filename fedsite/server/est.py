"""The routes of EST (RFC 7030, with the clarifications of RFC 8951): certificates out, requests in."""

import base64
import binascii
from http import HTTPStatus
from typing import Any

from cryptography import x509
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from fedsite.server import enrolment
from fedsite.server.bodies import read_body
from fedsite.server.federation import Federation
from fedsite.server.problems import Refused
from fedsite.wire.enrolment import EST, MAX_REQUEST_BYTES, PKCS7_TYPE, encode_certificates


def add_enrolment(app: FastAPI, federation: Federation) -> None:
    """EST (RFC 7030): certificates out, requests in."""

    @app.get(f"{EST}/cacerts", response_class=Response)
    def cacerts() -> Response:
        """The federation's root."""
        return _certificates([federation.authority.certificate])

    @app.post(f"{EST}/simpleenroll", response_class=Response, openapi_extra=_takes_request())
    async def simpleenroll(request: Request) -> Response:
        """The first certificate, for HTTP Basic authentication with site and secret of an invitation."""
        site, secret = _basic(request.headers.get("authorization", ""))
        body = _base64(await read_body(request, MAX_REQUEST_BYTES))
        return _certificates([await run_in_threadpool(enrolment.enrol, federation, site, secret, body)])

    @app.post(f"{EST}/simplereenroll", response_class=Response, openapi_extra=_takes_request())
    async def simplereenroll(request: Request) -> Response:
        """The next certificate, for the present one."""
        body = _base64(await read_body(request, MAX_REQUEST_BYTES))
        return _certificates([await run_in_threadpool(enrolment.reenrol, federation, request.state.site, body)])


def _basic(authorization: str) -> tuple[str, str]:
    """Site and secret of HTTP Basic authentication (RFC 7617); empty ones, which match nothing, when it is none."""
    scheme, _, value = authorization.partition(" ")
    try:
        site, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return (site, secret) if scheme.lower() == "basic" else ("", "")


def _base64(body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise Refused(HTTPStatus.BAD_REQUEST, "request-malformed", "The request is not base64.") from None


def _certificates(certificates: list[x509.Certificate]) -> Response:
    return Response(
        encode_certificates(certificates), media_type=PKCS7_TYPE, headers={"Content-Transfer-Encoding": "base64"}
    )


def _takes_request() -> dict[str, Any]:
    schema = {"type": "string", "contentEncoding": "base64"}
    return {"requestBody": {"required": True, "content": {"application/pkcs10": {"schema": schema}}}}
