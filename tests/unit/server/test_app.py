"""The application without TLS: what its document says, and that every error is a Problem."""

import asyncio
import sqlite3
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from fedsite.server.exchange import participation
from fedsite.wire.bandwidth import MAX_PROBE_BYTES, PROBE
from fedsite.wire.messages import MAX_MESSAGE_BYTES, Problem, parse

EST_HEADERS = {"Content-Type": "application/pkcs10; charset=us-ascii"}


@pytest.fixture
def ask(site_app):
    """Sends a request to the application as an enrolled site, past TLS."""
    app = site_app()

    def ask(method: str, path: str, **request: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="https://server") as http:
                return await http.request(method, path, **request)

        return asyncio.run(once())

    return ask


def test_the_document_is_made_from_the_messages(ask) -> None:
    document = ask("GET", "/v1/openapi.json").json()
    assert {"Participation", "Trust", "Tickets", "RoundAnswer", "Envelope", "Problem"} <= set(
        document["components"]["schemas"]
    )
    body = document["paths"]["/v1/participation"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["additionalProperties"] is False
    assert set(body["properties"]) == {"protocol", "ledger_sequence"}
    assert set(document["paths"]["/v1/uploads/{upload_id}"]) == {"head", "patch"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/docs", 404),
        ("DELETE", "/v1/trust", 405),
        ("GET", "/v1/rounds/0", 400),
        ("GET", "/v1/rounds/x", 400),
        ("GET", "/v1/rounds/1", 404),
        ("GET", "/v1/tickets?after=-1", 400),
        ("GET", "/v1/models/" + "0" * 64, 404),
        ("GET", "/v1/models/..%2f..%2fkeys%2fca.key", 404),
        ("GET", "/v1/models/" + "Z" * 64, 400),
        ("GET", "/v1/results/latest", 404),
    ],
)
def test_errors_are_problems(ask, method: str, path: str, status: int) -> None:
    answer = ask(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert parse(Problem, answer.content).status == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b'{"protocol":1,"protocol":1,"ledger_sequence":0}', 400),
        (b'{"protocol":1,"ledger_sequence":0,"more":0}', 400),
        (b'{"protocol":1,"ledger_sequence":NaN}', 400),
        (b'{"protocol":"1","ledger_sequence":0}', 400),
        (b"[" * 10_000, 400),
        (b" " * (MAX_MESSAGE_BYTES + 1), 413),
        (b'{"protocol":1,"ledger_sequence":0}', 200),
    ],
)
def test_bodies_are_read_strictly(ask, body: bytes, status: int) -> None:
    assert ask("POST", "/v1/participation", content=body).status_code == status


def test_bytes_that_measure_the_way_are_bounded(ask) -> None:
    assert ask("POST", PROBE, content=bytes(MAX_PROBE_BYTES)).status_code == 204
    assert ask("POST", PROBE, content=bytes(MAX_PROBE_BYTES + 1)).status_code == 413


def test_a_bug_is_answered_without_its_text(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(participation, "tickets", breaks)
    answer = ask("GET", "/v1/tickets")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert parse(Problem, answer.content).type == "internal"


@pytest.mark.parametrize("authorization", ["", "Basic", "Basic !", "Bearer x", "Basic c2l0ZQ=="])
def test_enrolment_without_proper_credentials(ask, authorization: str) -> None:
    answer = ask(
        "POST", "/.well-known/est/simpleenroll", headers=EST_HEADERS | {"Authorization": authorization}, content=b"AAAA"
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_enrolment_bodies_are_bounded(ask) -> None:
    for content, status in ((b"A" * (17 << 10), 413), (b"not base64!", 400)):
        answer = ask("POST", "/.well-known/est/simplereenroll", headers=EST_HEADERS, content=content)
        assert answer.status_code == status


@pytest.mark.parametrize(
    "kind", ["", "application/json", "application/x-www-form-urlencoded", "text/application/pkcs10"]
)
def test_enrolment_takes_requests_and_nothing_else(ask, kind: str) -> None:
    for route in ("simpleenroll", "simplereenroll"):
        answer = ask("POST", f"/.well-known/est/{route}", headers={"Content-Type": kind}, content=b"AAAA")
        assert (answer.status_code, parse(Problem, answer.content).type) == (415, "media-type")


@pytest.mark.parametrize(
    ("text", "status", "retry_after"), [("database or disk is full", 507, "600"), ("database is locked", 503, "1")]
)
def test_a_database_that_cannot_write_is_no_bug(
    bench, ask, monkeypatch: pytest.MonkeyPatch, text: str, status: int, retry_after: str
) -> None:
    def fails(*args: object) -> None:
        raise OperationalError("insert", {}, sqlite3.OperationalError(text))

    monkeypatch.setattr(participation, "_receipts", fails)
    answer = ask("POST", "/v1/participation", content=b'{"protocol":1,"ledger_sequence":0}')
    assert (answer.status_code, answer.headers["retry-after"]) == (status, retry_after)


def test_a_wrong_method_is_told_the_right_ones(ask) -> None:
    assert ask("DELETE", "/v1/uploads/" + "0" * 32).headers["Allow"] == "HEAD, PATCH"
    assert ask("POST", "/v1/trust").headers["Allow"] == "GET"
