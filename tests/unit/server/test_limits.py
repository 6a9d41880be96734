"""What one client may take: heads of requests, requests a second, requests at once, bodies that do not come."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from fedsite.server.web import bodies, limits, tls
from fedsite.server.web.app import create_app
from fedsite.server.web.limits import Allowance, Limits, Meter

PKCS10 = {"Content-Type": "application/pkcs10"}
Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# --- how often -------------------------------------------------------------------------------------------------------


def asks(meter: Meter, client: str, count: int) -> list[int]:
    """So many requests, one after the other."""
    answers = []
    for _ in range(count):
        answers.append(meter.enter(client))
        if not answers[-1]:
            meter.leave(client)
    return answers


def test_a_burst_then_a_rate() -> None:
    clock = Clock()
    meter = Meter(Allowance(burst=3, per_second=0.5, at_once=2), clock)
    assert asks(meter, "a", 5) == [0, 0, 0, 2, 2]
    assert asks(meter, "b", 1) == [0], "each has its own"
    clock.now += 2
    assert asks(meter, "a", 2) == [0, 2]
    clock.now += 1000
    assert asks(meter, "a", 4) == [0, 0, 0, 2], "what was not asked is not saved up"


def test_so_many_at_once() -> None:
    meter = Meter(Allowance(burst=100, per_second=1, at_once=2), Clock())
    assert [meter.enter("a") for _ in range(3)] == [0, 0, 1]
    meter.leave("a")
    assert meter.enter("a") == 0


def test_the_log_says_so_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    meter = Meter(Allowance(burst=1, per_second=0.001, at_once=1), clock)
    asks(meter, "site north", 5)
    clock.now += limits.SILENT_SECONDS
    asks(meter, "site north", 5)
    assert [one.getMessage() for one in caplog.records] == ["site north asks for more than its share"] * 2


def test_the_longest_silent_client_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 2)
    meter = Meter(Allowance(burst=1, per_second=0.001, at_once=1), Clock())
    assert [asks(meter, name, 1) for name in ("a", "b", "a", "c")] == [[0], [0], [1000], [0]]
    assert asks(meter, "a", 1) == [1000], "b was forgotten, not a"
    assert asks(meter, "b", 1) == [0]
    meter.leave("nobody")


@pytest.fixture
def narrow(bench) -> Any:
    """The application with small limits, as the open routes meet it."""
    limits = Limits(Allowance(burst=2, per_second=0.1, at_once=1), Allowance(burst=1, per_second=0.001, at_once=1))
    return create_app(bench.federation, lambda: None, limits=limits)


def ask(app: Any, *requests: tuple[str, str], **more: Any) -> list[httpx.Response]:
    async def all_of_them() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as http:
            return [await http.request(method, path, **more) for method, path in requests]

    return asyncio.run(all_of_them())


def test_too_many_requests_are_told_when_to_come_again(narrow) -> None:
    *fine, refused = ask(narrow, *[("GET", "/v1/federation")] * 3)
    assert [one.status_code for one in fine] == [200, 200]
    assert (refused.status_code, refused.json()["type"]) == (429, "too-many-requests")
    assert refused.headers["Retry-After"] == "10"


def test_certificates_are_counted_apart(bench, site_app) -> None:
    limits = Limits(certificates=Allowance(burst=1, per_second=0.001, at_once=1))
    app = site_app(limits)
    renewals = ask(app, *[("POST", "/.well-known/est/simplereenroll")] * 2, ("GET", "/v1/trust"), headers=PKCS10)
    assert [one.status_code for one in renewals] == [400, 429, 200]
    assert renewals[1].headers["Retry-After"] == "1000"


# --- how slowly ------------------------------------------------------------------------------------------------------


def test_a_body_that_does_not_come(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)

    async def drips():
        while True:
            yield b"A"
            await asyncio.sleep(0.02)

    app = create_app(bench.federation, lambda: None)
    (answer,) = ask(app, ("POST", "/.well-known/est/simpleenroll"), content=drips(), headers=PKCS10)
    assert (answer.status_code, answer.json()["type"]) == (408, "too-slow")


def test_an_answer_that_nobody_takes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEND_SECONDS", 0.02)

    async def stuck(message: Any) -> None:
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(limits.hurried(stuck)({"type": "http.response.body"}))


# --- heads of requests -----------------------------------------------------------------------------------------------


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the body and greets."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture(params=["httptools", "h11"])
def talk(request, monkeypatch: pytest.MonkeyPatch) -> Callable[[Reply], Any]:
    """Lets a client talk to either of the protocols, without TLS."""
    if request.param == "h11":
        monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    kind = tls.protocol()
    assert (kind is tls.H11WithPeer) == (request.param == "h11")

    def talk(client: Reply) -> Any:
        async def both() -> Any:
            config = uvicorn.Config(hello, http=kind, ws="none", lifespan="off", log_config=None, access_log=False)
            config.load()
            state = ServerState()
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: kind(config, state, {}), "127.0.0.1", 0)
            async with server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                try:
                    return await asyncio.wait_for(client(reader, writer), 10)
                finally:
                    writer.close()

        return asyncio.run(both())

    return talk


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_a_head_without_end_is_cut_off(talk) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        sent = 0
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        try:
            while sent < 64 << 20:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        except ConnectionError:
            pass
        return sent

    assert talk(client) < 8 << 20, "what lies in sockets' buffers goes beyond the limit"


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_come_is_cut_off(talk, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.1)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(start)
        return await _read_all(reader)

    assert talk(client) == b""


def test_dripping_heads_are_cut_off_also_after_a_good_one(talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.5)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.readuntil(b"hi")
        for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            writer.write(bytes([byte]))
            try:
                await writer.drain()
            except ConnectionError:
                return answer
            await asyncio.sleep(0.02)
        return b"never cut"

    assert talk(client).startswith(b"HTTP/1.1 200")


def test_a_slow_body_and_a_large_one_are_no_heads(talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(limits, "HEAD_BYTES", 1000)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.2)
            writer.write(b"x" * 1000)
        return await reader.readuntil(b"hi")

    assert talk(client).startswith(b"HTTP/1.1 200")
