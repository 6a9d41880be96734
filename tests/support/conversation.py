"""Everything that a site and a server say to each other, once, by clocks and keys that are always the same.

`record` lets this version's two sides talk and writes it down; `replay` says to this version's server what the site of
a recording said, byte for byte; `answering` is a small server that answers this version's site as the recording's did.
TLS is left out where both sides are in one process: what is recorded is what TLS carries.

Certificates, and the requests for them, are other bytes each time: ECDSA draws by chance.
"""

import asyncio
import base64
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from support import federation
from support.federation import plan, tensors, update_file
from support.listeners import listening, speaking_tls

import fedsite
from fedsite.errors import FedsiteError
from fedsite.files import PRIVATE_FILE, sha256_of, write_atomically
from fedsite.server import federation as federations
from fedsite.server.federation import Federation
from fedsite.server.members import enrolment as admissions
from fedsite.server.rounds import rounds, series
from fedsite.server.web.app import create_app
from fedsite.wire import enrolment, signing, transfer
from fedsite.wire.client import FederationClient, TlsIdentity
from fedsite.wire.enrolment import EST, Invitation
from fedsite.wire.messages import Participation, ParticipationRequest, Ticket
from fedsite.wire.payload import write_model
from fedsite.wire.plans import read_draft

SITE, URL = "site-a", "https://localhost:8443"
SECRET = "a-secret-that-opens-nothing-but-a-test-of-messages"
SHAPES = {"first.weight": (6, 5), "last.bias": (4,)}
KEYS = {"plan": 1, "round": 2, "receipt": 3}
"""Each key is one byte, 32 times."""

PASSPHRASE = "a passphrase"
PART_BYTES, PATIENCE = 96, 20.0
NOT_FOUND = {
    "status": 404,
    "headers": {"content-type": "application/problem+json"},
    "body": {"text": '{"type":"not-found","title":"Not Found.","status":404,"detail":""}'},
}
Said = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Conversation:
    """A recording: what both sides were given, and each request with its answer, in order.

    Between them stands what the coordinator did: `open` a series of two rounds, `close N` one of them.
    """

    fedsite: str
    given: Said
    said: list[Said] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        write_atomically(path, (json.dumps(vars(self), indent=1) + "\n").encode())

    @property
    def exchanges(self) -> list[Said]:
        return [one for one in self.said if "request" in one]

    def answer(self, line: str) -> Said:
        """The first answer to `METHOD /path`."""
        return next(one["answer"] for one in self.exchanges if one["request"]["line"] == line)


def given() -> Said:
    """What today's recording begins with."""
    now = datetime.fromisoformat("2026-01-05T08:00:00+00:00")
    return {
        "now": now.isoformat(),
        "plan": plan(expires="2026-12-31T00:00:00+00:00", rounds={"quorum": 1, "deadline_seconds": 86_400}),
        "shapes": {name: list(shape) for name, shape in SHAPES.items()},
    }


# --- the two sides in one process -----------------------------------------------------------------------------------


class Bench(httpx.BaseTransport):
    """A federation whose application is asked directly, and what was said to it."""

    def __init__(self, folder: Path, given: Said) -> None:
        self.folder, self.given, self.said = folder, given, list[Said]()
        self.now = datetime.fromisoformat(given["now"])
        self.shapes = {name: tuple(shape) for name, shape in given["shapes"].items()}
        self.federation = self._make()
        self.app = create_app(self.federation, lambda: None)
        self.certificate = b""

    def _make(self) -> Federation:
        place, agreement = self.folder / "federation", "Be kind."
        federations.init(place, "test-federation", ["localhost"], URL, agreement, self.now)
        for name, number in KEYS.items():
            key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
            pem = key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            write_atomically(place / "keys" / f"{name}.key", pem, PRIVATE_FILE)
        return federations.open_federation(place, lambda: self.now)

    def invite(self) -> Invitation:
        with mock.patch.object(admissions, "new_secret", return_value=SECRET):
            return admissions.invite(self.federation, SITE, timedelta(hours=1), URL)

    def coordinator(self, does: str) -> None:
        """`open` or `close N`."""
        self.said.append({"coordinator": does})
        if does != "open":
            rounds.close_now(self.federation, int(does.removeprefix("close ")))
            return
        model, path = self.folder / "model.safetensors", self.folder / "plan.yaml"
        write_model(model, tensors(0, self.shapes))
        path.write_text(yaml.safe_dump(self.given["plan"]))
        series.open_series(self.federation, read_draft(path), model, 2)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Called by httpx."""
        request.read()
        skipped = {"host", "connection", "accept"}
        asked = {
            "line": f"{request.method} {request.url.raw_path.decode()}",
            "headers": {name: value for name, value in request.headers.items() if name not in skipped},
            "body": to_text(request.content),
        }
        answer = self.ask(asked)
        self.said.append({"request": asked, "answer": answer})
        body = httpx.ByteStream(to_bytes(answer["body"]))
        return httpx.Response(answer["status"], headers=answer["headers"], stream=body)

    def ask(self, asked: Said) -> Said:
        """A recorded request, put to the application; its answer."""
        return asyncio.run(self._ask(asked))

    async def _ask(self, asked: Said) -> Said:
        method, target = asked["line"].split(" ", 1)
        path, _, query = target.partition("?")
        chain = [self.certificate.decode()] if self.certificate else []
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "https", "root_path": "",
            "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in asked["headers"].items()],
            "client": ("127.0.0.1", 1), "server": ("localhost", 8443),
            "extensions": {"tls": {"client_cert_chain": chain}},
        }  # fmt: skip
        messages = [{"type": "http.request", "body": to_bytes(asked["body"]), "more_body": False}]
        heard: list[Said] = []

        async def receive() -> Said:
            if not messages:
                await asyncio.Event().wait()  # the site stays on the line
            return messages.pop(0)

        async def send(message: Any) -> None:
            heard.append(message)

        await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in heard[0]["headers"]}
        body = b"".join(one.get("body", b"") for one in heard[1:])
        return {"status": heard[0]["status"], "headers": headers, "body": to_text(body)}


def record(folder: Path) -> Conversation:
    """What today's site and today's server say to each other."""
    bench = Bench(folder, given())
    with ExitStack() as stack:
        client = httpx.Client
        stack.enter_context(mock.patch.object(httpx, "Client", lambda **named: client(**named | {"transport": bench})))
        stack.enter_context(mock.patch.object(TlsIdentity, "check_dates"))
        key, invitation = enrolment.new_key(), bench.invite()
        root = enrolment.fetch_ca(URL, invitation.ca_sha256)
        bench.certificate = enrolment.enroll(invitation, root, key)
        tls = federation.write_identity(folder / "site", bench.certificate, enrolment.key_to_pem(key, PASSPHRASE), root)
        with FederationClient(URL, tls, patience=PATIENCE) as site:
            talk(site, folder, bench.shapes, bench.coordinator)
        enrolment.reenroll(URL, tls, enrolment.new_key())
    bench.federation.database.close()
    return Conversation(fedsite.__version__, bench.given, bench.said)


def replay(folder: Path, recorded: Conversation) -> Iterator[tuple[Said, Said]]:
    """What the recording's site said, put to today's server: each recorded exchange, and today's answer."""
    bench = Bench(folder, recorded.given)
    bench.invite()
    for one in recorded.said:
        if "coordinator" in one:
            bench.coordinator(one["coordinator"])
            continue
        answer = bench.ask(one["request"])
        yield one, answer
        if one["request"]["line"] == f"POST {EST}/simpleenroll":
            [certificate] = enrolment.decode_certificates(to_bytes(answer["body"]))
            bench.certificate = enrolment.to_pem([certificate])
    bench.federation.database.close()


# --- what is said ---------------------------------------------------------------------------------------------------


def talk(site: FederationClient, folder: Path, shapes: Shapes, coordinator: Callable[[str], None]) -> Said:
    """All that an enrolled site says in a round, and what goes wrong; gives what it has understood."""
    heard: Said = {
        "skew": site.clock_skew(),
        "trust": site.trust(),
        "idle": participate(site, 0),
        "no result": site.result(),
    }
    coordinator("open")
    offered = heard["offered"] = participate(site, 3)
    assert offered.plan is not None
    assert offered.ticket is not None
    ticket = heard["ticket"] = signing.unverified(offered.ticket, Ticket)
    heard |= {"tickets": site.tickets(after=0), "stands": site.round_answer(1)}
    site.download_model(ticket.model_sha256, ticket.model_bytes, folder / "fetched.safetensors")
    update = update_file(folder / "update", tensors(1, shapes))
    with mock.patch.object(transfer, "PART_BYTES", PART_BYTES):
        heard["receipt"] = site.upload(1, update, sha256_of(update), 4)
    heard["again"] = site.upload(1, update, sha256_of(update), 4)
    other = update_file(folder / "other", tensors(2, shapes))
    heard["another update"] = refused(lambda: site.upload(1, other, sha256_of(other), 5))
    heard |= {"rolled back": participate(site, 0), "sent": site.updates()}
    coordinator("close 1")
    heard["result"] = site.result()
    site.refuse(2, "policy")
    coordinator("close 2")
    heard["closed"] = refused(lambda: site.upload(2, other, sha256_of(other), 6))
    heard["no such round"] = refused(lambda: site.round_answer(99))
    heard["version"] = refused(lambda: site.participate(ParticipationRequest(protocol=99, ledger_sequence=0)))
    return heard


def participate(site: FederationClient, sequence: int) -> Participation:
    return site.participate(ParticipationRequest(protocol=1, ledger_sequence=sequence))


def refused(act: Callable[[], object]) -> FedsiteError:
    try:
        act()
    except FedsiteError as error:
        return error
    raise AssertionError("it was not refused")


# --- a small server that answers as a recorded one ------------------------------------------------------------------


@contextmanager
def answering(recorded: Conversation, folder: Path) -> Iterator[tuple[FederationClient, list[str]]]:
    """A client of today's, enrolled at a server that answers as the recording's did, and what that one could not."""
    authority, missed = trustme.CA(), list[str]()
    leaf = authority.issue_cert("localhost")
    root, key = authority.cert_pem.bytes(), leaf.private_key_pem.bytes()
    tls = federation.write_identity(folder / "site", leaf.cert_chain_pems[0].bytes(), key, root)
    left = list(recorded.exchanges)

    def talk_as_recorded(line: socket.socket) -> None:
        asked = read_request(line)
        found = next((one for one in [*left, *recorded.exchanges] if one["request"]["line"] == asked), None)
        if found is None:
            missed.append(asked)
        elif found in left:
            del left[: left.index(found) + 1]
        line.sendall(as_http(found["answer"] if found else NOT_FOUND))

    with (
        listening(speaking_tls(leaf, talk_as_recorded)) as port,
        FederationClient(f"https://localhost:{port}", tls, patience=PATIENCE) as client,
    ):
        yield client, missed


def read_request(line: socket.socket) -> str:
    """A request from a line, its body read too; gives METHOD /path."""
    with line.makefile("rb") as stream:
        first = stream.readline().decode()
        length = 0
        while (header := stream.readline().strip()) != b"":
            name, _, value = header.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        stream.read(length)
    return first.rpartition(" ")[0]


def as_http(answer: Said) -> bytes:
    """A recorded answer as it goes over a line that is then closed."""
    body = to_bytes(answer["body"])
    headers = answer["headers"] | {"content-length": str(len(body)), "connection": "close"}
    lines = [f"HTTP/1.1 {answer['status']} Recorded", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def to_text(body: bytes) -> Said:
    """Bytes in JSON: text where they are, for people to read."""
    with suppress(UnicodeDecodeError):
        return {"text": body.decode("ascii")}
    return {"base64": base64.b64encode(body).decode()}


def to_bytes(body: Said) -> bytes:
    """What `to_text` was given."""
    return body["text"].encode() if "text" in body else base64.b64decode(body["base64"])
