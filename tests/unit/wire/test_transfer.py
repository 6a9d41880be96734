"""The client against servers that misbehave (httpx's own mock transport answers)."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from fedsite.errors import (
    CannotWrite,
    FedsiteError,
    NotAuthorised,
    RecordsDamaged,
    ServerBrokeProtocol,
    SourceMissing,
    TryAgainLater,
    Unreachable,
    UpdateRefused,
)
from fedsite.wire import transfer, transport
from fedsite.wire.messages import Envelope, Problem, Signature
from fedsite.wire.transport import Connection, Exchange, Patience, Witness, ask, clock_skew, nobody

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RECEIPT = Envelope(payload="e30=", payloadType="t", signatures=[Signature(keyid="k", sig="cw==")])
PLACE = "/v1/uploads/" + "0" * 32


class Clock:
    """Time that passes only while someone sleeps, and a little with every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def patience(budget: float = 60.0) -> Patience:
    clock = Clock()
    return Patience(budget, clock, clock.sleep)


def serving(answer: Callable[[httpx.Request], httpx.Response], witness: Witness = nobody) -> Connection:
    transport = httpx.MockTransport(lambda request: unread(answer(request)))
    return Connection(httpx.Client(base_url="https://server", transport=transport), witness)


def unread(given: httpx.Response) -> httpx.Response:
    return httpx.Response(given.status_code, headers=given.headers, stream=given.stream)


def problem(status: int, kind: str, headers: dict[str, str] | None = None) -> httpx.Response:
    body = Problem(type=kind, title="Because.", status=status).to_bytes()
    return httpx.Response(status, headers=headers, content=body)


def update(folder: Path) -> transfer.Update:
    path = folder / "update"
    path.write_bytes(CONTENT)
    return transfer.Update(3, path, SHA256, 7)


def upload(folder: Path, answer: Callable[[httpx.Request], httpx.Response], budget: float = 60.0) -> Envelope:
    with serving(answer) as http:
        return transfer.upload(http, update(folder), patience(budget), transfer.silent)


def download(folder: Path, answer: Callable[[httpx.Request], httpx.Response], budget: float = 60.0) -> bytes:
    with serving(answer) as http:
        transfer.download(http, SHA256, len(CONTENT), folder / "model.st", patience(budget), transfer.silent)
    return (folder / "model.st").read_bytes()


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (401, "certificate-needed", NotAuthorised),
        (403, "certificate-revoked", NotAuthorised),
        (404, "no-such-round", TryAgainLater),
        (409, "round-closed", TryAgainLater),
        (409, "another-update", RecordsDamaged),
        (422, "update-refused", UpdateRefused),
        (400, "malformed", ServerBrokeProtocol),
        (418, "teapot", ServerBrokeProtocol),
    ],
)
def test_what_refusals_mean(tmp_path: Path, status: int, kind: str, error: type[FedsiteError]) -> None:
    with pytest.raises(error, match="Because"):
        upload(tmp_path, lambda _: problem(status, kind))


def test_a_refusal_cannot_draw_on_the_terminal() -> None:
    body = b'{"type":"x","title":"\\u001b[2J\\nred","status":400,"detail":"' + b"a" * 5000 + b'"}'
    with serving(lambda _: httpx.Response(400, content=body)) as http, pytest.raises(ServerBrokeProtocol) as caught:
        ask(http, "GET", "/", patience())
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600


def test_a_refusal_without_reason() -> None:
    with (
        serving(lambda _: httpx.Response(400, content=b"<html>")) as http,
        pytest.raises(ServerBrokeProtocol, match="gave no reason"),
    ):
        ask(http, "GET", "/", patience())


def test_a_failing_server_is_asked_again_until_patience_ends() -> None:
    asked = []

    def fails(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(503)

    with serving(fails) as http, pytest.raises(Unreachable, match="503"):
        ask(http, "GET", "/", patience())
    assert 5 < len(asked) < 100


def test_retry_after_is_honoured() -> None:
    answers = iter([httpx.Response(503, headers={"Retry-After": "40"}), httpx.Response(200)])
    clock = Clock()
    with serving(lambda _: next(answers)) as http:
        assert ask(http, "GET", "/", Patience(60, clock, clock.sleep)).status == 200
    assert 40 <= clock.now < 60


def test_an_endless_answer_is_cut() -> None:
    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x" * 65536

    with (
        serving(lambda _: httpx.Response(200, stream=Endless())) as http,
        pytest.raises(ServerBrokeProtocol, match="larger"),
    ):
        ask(http, "GET", "/", patience())


def test_a_dripping_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_ANSWER", 0.0)
    with serving(lambda _: httpx.Response(200, content=b"{}")) as http, pytest.raises(Unreachable, match="took more"):
        ask(http, "GET", "/", patience(0.0))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(201, headers={"Location": "https://elsewhere/", "Upload-Offset": "0"}),
        httpx.Response(201, headers={"Upload-Offset": "0"}),
        httpx.Response(201, headers={"Location": PLACE}),
        httpx.Response(201, headers={"Location": PLACE, "Upload-Offset": "-1"}),
        httpx.Response(201, headers={"Location": PLACE, "Upload-Offset": str(len(CONTENT) + 1)}),
        httpx.Response(200, content=b"no receipt"),
        httpx.Response(302, headers={"Location": "https://elsewhere/"}),
    ],
)
def test_lies_about_uploads(tmp_path: Path, answer: httpx.Response) -> None:
    with pytest.raises(ServerBrokeProtocol):
        upload(tmp_path, lambda _: answer)


def test_a_server_that_takes_no_bytes_is_given_up(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        headers = {"Location": PLACE, "Upload-Offset": "0"}
        return httpx.Response(201 if request.method == "POST" else 204, headers=headers)

    with pytest.raises(Unreachable, match="takes no bytes"):
        upload(tmp_path, answer)


def test_an_upload_goes_on_where_the_server_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 300_000)
    received = bytearray(CONTENT[:1000])
    cuts = iter([100_000, 50])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            assert request.headers["Repr-Digest"] == transfer.repr_digest(SHA256)
            assert request.headers["Fedsite-Ledger-Sequence"] == "7"
            return httpx.Response(201, headers={"Location": PLACE, "Upload-Offset": str(len(received))})
        assert int(request.headers["Upload-Offset"]) == len(received)
        body = request.read()
        assert len(body) == int(request.headers["Content-Length"])
        if (cut := next(cuts, None)) is not None:
            received.extend(body[:cut])
            raise httpx.WriteError("cut")
        received.extend(body)
        if len(received) == len(CONTENT):
            assert request.headers["Upload-Complete"] == "?1"
            return httpx.Response(200, content=RECEIPT.to_bytes())
        return httpx.Response(204, headers={"Upload-Offset": str(len(received))})

    assert upload(tmp_path, answer) == RECEIPT
    assert bytes(received) == CONTENT


def test_full_disk_at_the_server_is_to_be_tried_later(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, headers={"Location": PLACE, "Upload-Offset": "0"})
        return problem(507, "no-space", {"Retry-After": "600"})

    with pytest.raises(TryAgainLater, match="600 seconds"):
        upload(tmp_path, answer)


def test_no_file_no_upload(tmp_path: Path) -> None:
    nothing = transfer.Update(1, tmp_path / "absent", SHA256, 1)
    with serving(lambda _: httpx.Response(500)) as http, pytest.raises(SourceMissing):
        transfer.upload(http, nothing, patience(), transfer.silent)


def test_download_resumes(tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(CONTENT[:1000])

    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.headers["Range"], request.headers["If-Range"]) == ("bytes=1000-", f'"{SHA256}"')
        headers = {"Content-Range": f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"}
        return httpx.Response(206, headers=headers, content=CONTENT[1000:])

    assert download(tmp_path, answer) == CONTENT


def test_a_server_without_ranges_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(b"old")
    assert download(tmp_path, lambda _: httpx.Response(200, content=CONTENT)) == CONTENT


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, content=CONTENT + b"x"), ServerBrokeProtocol),
        (httpx.Response(200, content=CONTENT[:-1] + b"x"), ServerBrokeProtocol),
        (httpx.Response(200, content=b""), Unreachable),
        (httpx.Response(206, content=CONTENT), ServerBrokeProtocol),
        (httpx.Response(302), ServerBrokeProtocol),
        (httpx.Response(404), ServerBrokeProtocol),
        (httpx.Response(500), Unreachable),
    ],
)
def test_lies_about_downloads(tmp_path: Path, answer: httpx.Response, error: type[FedsiteError]) -> None:
    with pytest.raises(error):
        download(tmp_path, lambda _: httpx.Response(answer.status_code, content=answer.content))
    assert not (tmp_path / "model.st").exists()


def test_another_part_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model.part").write_bytes(CONTENT[:1000])
    headers = {"Content-Range": f"bytes 500-{len(CONTENT) - 1}/{len(CONTENT)}"}
    with pytest.raises(ServerBrokeProtocol, match="another part"):
        download(tmp_path, lambda _: httpx.Response(206, headers=headers, content=CONTENT[500:]))


def test_a_dripping_download_is_given_up(tmp_path: Path) -> None:
    class Drips(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for byte in CONTENT:
                yield bytes([byte])

    with pytest.raises(Unreachable, match="too slowly"):
        download(tmp_path, lambda _: httpx.Response(200, stream=Drips()), budget=5)
    assert (tmp_path / "model.part").stat().st_size > 0, "what came is kept"


def test_no_place_to_write(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite):
        download(tmp_path / "absent", lambda _: httpx.Response(200, content=CONTENT))


class _SlowLine(httpx.BaseTransport):
    """Takes 50 s for each block of an upload, and is cut after so many; the server keeps what `keeps` says of it."""

    def __init__(self, clock: Clock, blocks: int, keeps: Callable[[int], int]) -> None:
        self._clock, self._blocks, self._keeps, self.offset, self.parts = clock, blocks, keeps, 0, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return unread(httpx.Response(201, headers={"Location": PLACE, "Upload-Offset": str(self.offset)}))
        self.parts += 1
        here = 0
        assert isinstance(request.stream, httpx.SyncByteStream)
        for number, block in enumerate(request.stream):
            if number == self._blocks:
                self.offset += self._keeps(here)
                raise httpx.WriteError("cut", request=request)
            self._clock.sleep(50)
            here += len(block)
        return unread(httpx.Response(200, content=RECEIPT.to_bytes()))


def _upload_over(folder: Path, clock: Clock, line: _SlowLine) -> Envelope:
    with Connection(httpx.Client(base_url="https://server", transport=line)) as http:
        return transfer.upload(http, update(folder), Patience(60.0, clock, clock.sleep), transfer.silent)


@pytest.mark.fault(
    part="line",
    what="a slow line that is cut again and again",
    where="every 50 seconds",
    promised="what arrived is kept; it gets there",
)
def test_a_slow_line_that_is_cut_again_and_again_gets_there(tmp_path: Path) -> None:
    clock = Clock()
    line = _SlowLine(clock, 2, lambda sent: transfer.BLOCK_BYTES)
    assert _upload_over(tmp_path, clock, line) == RECEIPT
    assert (line.parts, clock.now > 4 * 50) == (3, True)


def test_a_server_that_forgets_what_it_was_sent_does_not_hold_us(tmp_path: Path) -> None:
    clock = Clock()
    line = _SlowLine(clock, 2, lambda sent: 0)
    with pytest.raises(Unreachable, match="No progress for 60 seconds"):
        _upload_over(tmp_path, clock, line)
    assert line.parts <= 4


def test_a_server_that_takes_byte_after_byte_does_not_hold_us(tmp_path: Path) -> None:
    clock, offset = Clock(), iter(range(1, len(CONTENT)))

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, headers={"Location": PLACE, "Upload-Offset": "0"})
        clock.sleep(1)
        return httpx.Response(204, headers={"Upload-Offset": str(next(offset))})

    with serving(answer) as http, pytest.raises(Unreachable, match="too few bytes"):
        transfer.upload(http, update(tmp_path), Patience(60.0, clock, clock.sleep), transfer.silent)


def test_clock_skew() -> None:
    def skew(date: str) -> float | None:
        return clock_skew(httpx.Headers({"Date": date}), datetime(2026, 5, 4, 3, 2, 31, tzinfo=UTC))

    assert skew("Mon, 04 May 2026 03:02:01 GMT") == 30
    assert skew("yesterday") is None


def test_a_witness_sees_every_request() -> None:
    seen: list[Exchange] = []
    answers = iter([httpx.Response(503), httpx.Response(200, content=b"{}", headers={"Date": "no date"})])
    with serving(lambda _: next(answers), seen.append) as http:
        ask(http, "POST", "/v1/participation", patience(), content=b"12345")
    assert [(one.method, one.path, one.status, one.sent, one.received, one.ahead) for one in seen] == [
        ("POST", "/v1/participation", 503, 5, 0, None),
        ("POST", "/v1/participation", 200, 5, 2, None),
    ]


def test_a_witness_sees_what_was_sent_before_the_line_was_cut() -> None:
    class Cut(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.SyncByteStream)
            for number, _ in enumerate(request.stream, 1):
                if number == 2:
                    break
            raise httpx.WriteError("cut", request=request)

    seen: list[Exchange] = []
    http = Connection(httpx.Client(base_url="https://server", transport=Cut()), seen.append)
    with http, pytest.raises(httpx.WriteError), http.exchange("PATCH", PLACE, content=iter([b"123", b"45", b"6"])):
        pass
    assert [(one.status, one.sent, one.received) for one in seen] == [(0, 5, 0)]


def test_the_witness_can_stop_what_it_cannot_record() -> None:
    def full(_: Exchange) -> None:
        raise CannotWrite("disk full")

    with serving(lambda _: httpx.Response(200, content=b"{}"), full) as http, pytest.raises(CannotWrite):
        ask(http, "GET", "/", patience())
