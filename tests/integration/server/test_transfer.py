"""Updates up and models down through a real server that is killed, repeated, and told lies."""

import base64
import hashlib
import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.federation import Server, model_file, running, tensors, update_file

from fedsite.errors import NotAuthorised, RecordsDamaged, ServerBrokeProtocol, TryAgainLater, UpdateRefused
from fedsite.files import sha256_of
from fedsite.server.members import enrolment as admissions
from fedsite.server.rounds.reports import round_report
from fedsite.wire import transfer
from fedsite.wire.client import FederationClient, TlsIdentity
from fedsite.wire.messages import Envelope, Participation, ParticipationRequest, Receipt, Result, Ticket, parse
from fedsite.wire.payload import tensors_of
from fedsite.wire.plans import Plan
from fedsite.wire.signing import PLAN, RECEIPT, RESULT, TICKET, digest, open_envelope, public_key

BIG = {"weight": (1024, 1024)}
NEVER = {"rounds": {"quorum": 1, "enough": 1000, "deadline_seconds": 3600}}
names = (f"site-{number}" for number in itertools.count())


@pytest.fixture
def site(server: Server, tmp_path: Path) -> TlsIdentity:
    return server.enrol(next(names), tmp_path / "site")


def test_update_gets_a_receipt_and_repeats_get_the_same(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **NEVER)
    update = update_file(tmp_path / "update", tensors(1))
    with server.client(site) as client:
        first = client.upload(number, update, sha256_of(update), 7)
        assert client.upload(number, update, sha256_of(update), 7) == first
        receipt = open_envelope(first, Receipt, RECEIPT, [public_key(server.federation.receipt_key)])
        assert (receipt.round, receipt.update_sha256, receipt.ledger_sequence) == (number, sha256_of(update), 7)
        assert receipt.ticket_sha256 == client.round_answer(number).ticket_sha256
    assert [one["site"] for one in round_report(server.federation, number)["took_part"]] == [receipt.site]


def test_another_update_for_the_same_round_is_refused(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **NEVER)
    first, second = update_file(tmp_path / "1", tensors(1)), update_file(tmp_path / "2", tensors(2))
    with server.client(site) as client:
        receipt = client.upload(number, first, sha256_of(first), 1)
        with pytest.raises(RecordsDamaged, match="another update"):
            client.upload(number, second, sha256_of(second), 2)
        assert client.upload(number, first, sha256_of(first), 1) == receipt


def test_nothing_is_sent_when_the_file_is_not_the_ledgers(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **NEVER)
    update = update_file(tmp_path / "update", tensors(1))
    with server.client(site) as client, pytest.raises(RecordsDamaged, match="nothing was sent"):
        client.upload(number, update, "0" * 64, 1)
    assert round_report(server.federation, number)["late"] == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "its size"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "its size"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"first.bias", b"worst.bias")), "names, shapes"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"[40,30]", b"[30,40]")), "names, shapes"),
        (lambda path: update_file(path, tensors(1) | {"first.bias": np.full(40, np.nan)}), "not finite"),
        (lambda path: update_file(path, tensors(1) | {"first.bias": np.full(40, -np.inf)}), "not finite"),
        (lambda path: update_file(path, tensors(1, scale=1e6)), "norm"),
        (lambda path: path.write_bytes(b"\x80\x04" + path.read_bytes()[2:]), "names, shapes"),
    ],
    ids=["truncated", "longer", "names", "shapes", "nan", "infinite", "norm", "pickle"],
)
def test_unfit_update_is_refused_and_the_site_told(
    server: Server, site: TlsIdentity, tmp_path: Path, change, why: str
) -> None:
    number = server.open_round(tmp_path, **NEVER)
    update = update_file(tmp_path / "update", tensors(1))
    change(update)
    with server.client(site) as client:
        for _ in range(2):
            with pytest.raises(UpdateRefused, match=why):
                client.upload(number, update, sha256_of(update), 1)
    report = round_report(server.federation, number)
    assert why in report["rejected"][0]["reason"]
    assert report["took_part"] == []


def test_bytes_that_are_not_the_announced_ones_are_refused(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **NEVER)
    update = update_file(tmp_path / "update", tensors(1))
    content = update.read_bytes()
    with _http(server, site) as http:
        headers = {
            "Repr-Digest": transfer.repr_digest(sha256_of(update)),
            "Upload-Length": str(len(content)),
            "Fedsite-Ledger-Sequence": "1",
        }
        created = http.post(f"/v1/rounds/{number}/updates", headers=headers)
        assert created.status_code == 201
        wrong = content[:-1] + bytes([content[-1] ^ 1])
        answer = http.patch(created.headers["Location"], content=wrong, headers=_part(0))
        assert (answer.status_code, answer.json()["type"]) == (400, "digest-wrong")
        assert http.head(created.headers["Location"]).headers["Upload-Offset"] == "0"
        answer = http.patch(created.headers["Location"], content=content, headers=_part(0))
        assert answer.status_code == 200


def test_upload_speaks_the_drafts_language(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **NEVER)
    content = update_file(tmp_path / "update", tensors(1)).read_bytes()
    with _http(server, site) as http:
        headers = {
            "Repr-Digest": transfer.repr_digest(hashlib.sha256(content).hexdigest()),
            "Upload-Length": str(len(content)),
            "Fedsite-Ledger-Sequence": "1",
        }
        for missing in headers:
            rest = {name: value for name, value in headers.items() if name != missing}
            assert http.post(f"/v1/rounds/{number}/updates", headers=rest).status_code == 400
        weighted = headers | {"Fedsite-Weight": "2"}
        assert http.post(f"/v1/rounds/{number}/updates", headers=weighted).status_code == 400
        assert http.post("/v1/rounds/999/updates", headers=headers).json()["type"] == "no-such-round"
        location = http.post(f"/v1/rounds/{number}/updates", headers=headers).headers["Location"]
        assert http.post(f"/v1/rounds/{number}/updates", headers=headers).headers["Location"] == location
        assert http.patch(location, content=content[:100], headers=_part(0)).headers["Upload-Offset"] == "100"
        ahead = http.patch(location, content=content[200:], headers=_part(200))
        assert (ahead.status_code, ahead.headers["Upload-Offset"]) == (409, "100")
        assert http.patch(location, content=content[100:], headers={"Upload-Offset": "100"}).status_code == 415
        assert http.patch(location, content=content[100:] + b"more", headers=_part(100)).status_code == 400
        state = http.head(location)
        assert (state.status_code, state.headers["Upload-Complete"]) == (204, "?0")
        offset = int(state.headers["Upload-Offset"])
        done = http.patch(location, content=content[offset:], headers=_part(offset))
        assert (done.status_code, done.headers["Upload-Complete"]) == (200, "?1")
        assert http.patch(location, content=b"", headers=_part(0)).content == done.content


def test_an_upload_is_its_sites_own(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **NEVER)
    update = update_file(tmp_path / "update", tensors(1))
    with server.client(site) as client:
        client.upload(number, update, sha256_of(update), 1)
    owner = round_report(server.federation, number)["took_part"][0]["site"]
    upload = hashlib.sha256(f"{owner}\0{number}\0{sha256_of(update)}".encode()).hexdigest()[:32]
    other = server.enrol(next(names), tmp_path / "other")
    with _http(server, site) as mine, _http(server, other) as foreign:
        assert mine.head(f"/v1/uploads/{upload}").status_code == 204
        assert foreign.head(f"/v1/uploads/{upload}").status_code == 404
        assert foreign.patch(f"/v1/uploads/{upload}", content=b"", headers=_part(0)).status_code == 404


@pytest.mark.fault(
    part="time",
    what="a certificate is revoked in the middle of an upload",
    where="after the second block",
    promised="the next block is refused (exit 77); nothing is accepted",
)
def test_revocation_takes_effect_in_the_middle_of_an_upload(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 1000)
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 1000)
    identity = server.enrol("turncoat", tmp_path / "turncoat")
    number = server.open_round(tmp_path, **NEVER)
    update = update_file(tmp_path / "update", tensors(1))
    sent = []

    def progress(done: int, total: int) -> None:
        sent.append(done)
        if done == 2000:
            admissions.revoke(server.federation, "turncoat")

    with server.client(identity) as client, pytest.raises(NotAuthorised, match="revoked"):
        client.upload(number, update, sha256_of(update), 1, progress=progress)
    assert max(sent) <= 3000 < update.stat().st_size
    assert round_report(server.federation, number)["took_part"] == []


@pytest.mark.fault(
    part="line",
    what="a half-open connection: the site has come back, the server still waits",
    where="an upload that hangs in its body",
    promised="the newer request takes over; exactly once",
)
def test_newer_request_takes_over_from_a_dead_line(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **NEVER)
    update = update_file(tmp_path / "update", tensors(1))
    content = update.read_bytes()
    with _http(server, site) as stuck, server.client(site) as client:
        location = _announce(stuck, number, content)

        def body():
            yield content[:1000]
            client.upload(number, update, sha256_of(update), 1)  # comes while the other still hangs in its body
            yield content[1000:]

        headers = _part(0) | {"Content-Length": str(len(content))}
        answer = stuck.patch(location, content=body(), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (409, "superseded")
    assert len(round_report(server.federation, number)["took_part"]) == 1


@pytest.mark.fault(
    part="server",
    what="kill -9 of the server while 4 MB go up, and down",
    where="half of a model's and of an update's bytes",
    promised="both go on where they were cut",
)
def test_transfers_survive_kill_9_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 1 << 19)
    update = update_file(tmp_path / "update", tensors(1, BIG))
    model = tmp_path / "model.safetensors"
    destination = tmp_path / "downloaded.safetensors"
    size = update.stat().st_size
    with running(tmp_path / "federation") as server:
        identity = server.enrol("site-a", tmp_path / "site-a")
        number = server.open_round(tmp_path, shapes=BIG, **NEVER)
        with server.client(identity, patience=60) as client:
            up, down = KillAt(server, size // 2), KillAt(server, size // 2)
            receipt = client.upload(number, update, sha256_of(update), 1, progress=up)
            assert client.upload(number, update, sha256_of(update), 1) == receipt
            client.download_model(sha256_of(model), size, destination, down)
        assert up.resumed_at > size // 2 - 2 * transfer.PART_BYTES, "it started from nothing"
        assert down.resumed_at >= size // 2, "it started from nothing"
        assert destination.read_bytes() == model.read_bytes()
        assert not destination.with_suffix(".part").exists()
        assert len(round_report(server.federation, number)["took_part"]) == 1
        assert [path.stat().st_size for path in (server.folder / "updates").iterdir()] == [size]


class KillAt:
    """A progress callback that kills the server once, and notes where the transfer goes on."""

    def __init__(self, server: Server, place: int) -> None:
        self.server, self.place = server, place
        self.killed = False
        self.resumed_at = -1

    def __call__(self, done: int, total: int) -> None:
        if self.killed and self.resumed_at < 0:
            self.resumed_at = done
        if not self.killed and done > self.place:
            self.killed = True
            self.server.stop(signal.SIGKILL)
            self.server.start()


def test_download_goes_on_from_what_an_earlier_run_left(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    server.open_round(tmp_path, **NEVER)
    model = tmp_path / "model.safetensors"
    destination = tmp_path / "downloaded.safetensors"
    size, sha256 = model.stat().st_size, sha256_of(model)
    with server.client(site) as client:
        for left in (model.read_bytes()[:1000], b"\0" * 1000, b"\0" * size, b"\0" * (size + 1)):
            destination.with_suffix(".part").write_bytes(left)
            client.download_model(sha256, size, destination)
            assert destination.read_bytes() == model.read_bytes()
        with pytest.raises(ServerBrokeProtocol, match="larger"):
            client.download_model(sha256, size - 1, tmp_path / "announced-smaller")
        with pytest.raises(ServerBrokeProtocol, match="404"):
            client.download_model("0" * 64, size, tmp_path / "never-seen")


def test_ranges(server: Server, site: TlsIdentity, tmp_path: Path) -> None:
    server.open_round(tmp_path, **NEVER)
    content = (tmp_path / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    with _http(server, site) as http:
        whole = http.get(f"/v1/models/{sha256}")
        assert (whole.status_code, whole.content, whole.headers["ETag"]) == (200, content, f'"{sha256}"')
        part = http.get(f"/v1/models/{sha256}", headers={"Range": "bytes=10-", "If-Range": f'"{sha256}"'})
        assert (part.status_code, part.content) == (206, content[10:])
        stale = http.get(f"/v1/models/{sha256}", headers={"Range": "bytes=10-", "If-Range": '"another"'})
        assert (stale.status_code, stale.content) == (200, content)


def test_a_whole_series(server: Server, tmp_path: Path) -> None:
    """Two sites, two rounds: each aggregated at once, the second on the first's model, the chain of tickets whole."""
    sites = [server.enrol(next(names), tmp_path / name) for name in ("one", "two")]
    model = model_file(tmp_path / "model.safetensors", seed=0)
    first = server.open_round(tmp_path, count=2, plan="series")
    expected = {name: value.astype(np.float64) for name, value in tensors_of(model).items()}
    for place in (0, 1):
        number = first + place
        for sequence, identity in enumerate(sites, start=1):
            update = update_file(tmp_path / f"{place}-{sequence}", tensors(10 * place + sequence))
            with server.client(identity) as client:
                offer = _due(client)
                opened = open_envelope(offer.ticket, Ticket, TICKET, [_plan_of(server, offer).round_key])
                assert opened.round == number
                client.download_model(opened.model_sha256, opened.model_bytes, tmp_path / f"{number}.safetensors")
                client.upload(number, update, sha256_of(update), place + 1)
        with server.client(sites[0]) as client:
            _wait_for(lambda number=number, client=client: client.round_answer(number).status == "aggregated")
            result = open_envelope(client.result(), Result, RESULT, [_plan_of(server, offer).round_key])
            assert (result.round, result.contributions) == (number, 2)
            client.download_model(result.model_sha256, result.model_bytes, tmp_path / "result.safetensors")
        for name in expected:
            mean = (tensors(10 * place + 1)[name].astype(np.float64) + tensors(10 * place + 2)[name]) / 2
            expected[name] = (expected[name] + mean).astype(np.float32).astype(np.float64)
            np.testing.assert_array_equal(tensors_of(tmp_path / "result.safetensors")[name], expected[name])
    with server.client(sites[0]) as client:
        tickets = client.tickets(after=first - 1).tickets
        chain = [parse(Ticket, _payload(one)) for one in tickets]
        assert [one.round for one in chain] == [first, first + 1]
        assert chain[1].previous_ticket == digest(tickets[0])
        assert chain[1].model_sha256 != chain[0].model_sha256
        with pytest.raises(TryAgainLater):
            client.round_answer(999_999)
    assert round_report(server.federation, first)["result_sha256"] == chain[1].model_sha256


def _due(client: FederationClient) -> Participation:
    answer = client.participate(ParticipationRequest(protocol=1, ledger_sequence=1 << 50))
    assert answer.plan is not None
    return answer


def _plan_of(server: Server, offer: Participation) -> Plan:
    return open_envelope(offer.plan, Plan, PLAN, [public_key(server.federation.plan_key)])


def _payload(envelope: Envelope) -> bytes:
    return base64.b64decode(envelope.payload)


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _http(server: Server, identity: TlsIdentity) -> httpx.Client:
    return httpx.Client(base_url=server.url, verify=identity.context(), trust_env=False)


def _part(offset: int) -> dict[str, str]:
    return {"Content-Type": "application/partial-upload", "Upload-Offset": str(offset)}


def _announce(http: httpx.Client, number: int, content: bytes) -> str:
    headers = {
        "Repr-Digest": transfer.repr_digest(hashlib.sha256(content).hexdigest()),
        "Upload-Length": str(len(content)),
        "Fedsite-Ledger-Sequence": "1",
    }
    return http.post(f"/v1/rounds/{number}/updates", headers=headers).headers["Location"]
