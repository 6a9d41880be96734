"""What a malicious server, or whoever answers in its place, may say to a site: ended, bounded, believed in nothing.

The server here has the federation's own certificate; only in what it answers does it do as it likes.
"""

import base64
import gzip
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from support.attacks import Attack, cases
from support.federation import make, write_identity
from support.liar import Liar, Lie, lying

from fedsite.errors import FedsiteError, NotAuthorised, ServerBrokeProtocol, TryAgainLater, Unreachable
from fedsite.files import sha256_of
from fedsite.server.authority.authority import Authority
from fedsite.server.federation import Federation
from fedsite.wire import enrolment, transport, watchdog
from fedsite.wire.client import FederationClient, TlsIdentity
from fedsite.wire.enrolment import Invitation, encode_certificates
from fedsite.wire.messages import MAX_DEPTH, ParticipationRequest, utc_now
from fedsite.wire.transport import Patience

SHORT = 1.5  # a liar that cuts one line may be asked again
"""Seconds in place of a minute."""
LONGEST = 20.0
"""Seconds that no answer may hold a site."""
MEMORY = 8 << 20
"""How much an answer may make a site hold at once (bytes)."""
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class Scene:
    """A site's identity, its federation, and the liar in the server's place."""

    federation: Federation
    identity: TlsIdentity
    folder: Path
    liar: Liar

    def client(self) -> FederationClient:
        return FederationClient(self.liar.url, self.identity, patience=SHORT)

    def invitation(self, ca_sha256: str | None = None) -> Invitation:
        known = ca_sha256 or enrolment.fingerprint(self.federation.authority.chain[-1])
        return Invitation(self.liar.url, "site-a", "s" * 43, known)


def asks(scene: Scene) -> None:
    with scene.client() as client:
        client.participate(ParticipationRequest(protocol=1, ledger_sequence=0))


def refuses(scene: Scene) -> None:
    with scene.client() as client:
        client.refuse(1, "policy")


def downloads(scene: Scene) -> None:
    with scene.client() as client:
        client.download_model("0" * 64, 1 << 20, scene.folder / "model.safetensors")


def uploads(scene: Scene) -> None:
    update = scene.folder / "update"
    update.touch()
    os.truncate(update, 32 << 20)
    with scene.client() as client:
        client.upload(1, update, sha256_of(update), 1)


def fetches_authority(scene: Scene) -> None:
    enrolment.fetch_ca(scene.liar.url, scene.invitation().ca_sha256, patience=Patience(SHORT))


def enrols(scene: Scene) -> None:
    root = scene.federation.ca_certificate.read_bytes()
    enrolment.enroll(scene.invitation(), root, enrolment.new_key(), patience=Patience(SHORT))


@dataclass(frozen=True)
class Answer(Attack):
    """`lie` answers what `asked` asks for; the site must end with `error`, and say `why`."""

    lie: Callable[[Federation], Lie]
    error: type[FedsiteError] = ServerBrokeProtocol
    why: str = "."
    asked: Callable[[Scene], None] = asks


# --- lies ------------------------------------------------------------------------------------------------------------


def says(content: bytes, head: bytes = OK) -> Callable[[Federation], Lie]:
    """The same bytes to everybody, with their true length."""
    answer = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
    return lambda federation: lambda request: iter([answer])


def sends(first: bytes, *then: bytes, pause: float = 0.0) -> Callable[[Federation], Lie]:
    """Some bytes, then others again and again: for longer than any test waits."""

    def lie(request: bytes) -> Iterator[bytes]:
        yield first
        end = time.monotonic() + 2 * LONGEST
        while time.monotonic() < end:
            for piece in then:
                time.sleep(pause)
                yield piece

    return lambda federation: lie


def silence(federation: Federation) -> Lie:
    def lie(request: bytes) -> Iterator[bytes]:
        end = time.monotonic() + 5 * SHORT
        while time.monotonic() < end:
            time.sleep(0.05)
            yield b""

    return lie


def takes_nothing(federation: Federation) -> Lie:
    """Announces that it is ready for an update, then reads none of it."""
    place = b"HTTP/1.1 201 Created\r\nLocation: /v1/uploads/%s\r\nUpload-Offset: 0\r\nContent-Length: 0\r\n\r\n" % (
        b"0" * 32
    )

    def lie(request: bytes) -> Iterator[bytes]:
        if request.startswith(b"POST"):
            yield place
        else:
            yield from silence(federation)(request)

    return lie


def est(certificates: Callable[[Federation], bytes]) -> Callable[[Federation], Lie]:
    """An answer of EST."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime; smime-type=certs-only\r\n"
    return lambda federation: says(certificates(federation), head)(federation)


def of_another_key(federation: Federation) -> bytes:
    return encode_certificates([federation.authority.issue_site(enrolment.new_key().public_key(), "site-a", utc_now())])


def of_another_authority(federation: Federation) -> bytes:
    return encode_certificates(list(Authority.create(federation.name, utc_now()).chain))


def many(federation: Federation) -> bytes:
    der = pkcs7.serialize_certificates([federation.authority.chain[-1]] * 500, Encoding.DER)
    return base64.encodebytes(der)


ZEROS = gzip.compress(bytes(64 << 20))
HUGE = b"Content-Length: 9223372036854775807\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BLOCK = b"10000\r\n" + b"x" * 65536 + b"\r\n"

ATTACKS = (
    Answer(
        "endless-body",
        "an answer without end",
        "cut off after 1 MiB, exit 76",
        sends(OK + CHUNKED, BLOCK),
        why="larger",
    ),
    Answer(
        "body-of-8-eib",
        "an answer that is 8 EiB long",
        "cut off after 1 MiB, exit 76",
        sends(OK + HUGE, bytes(65536)),
        why="larger",
    ),
    Answer(
        "dripping-body",
        "an answer of a byte now and then",
        "given up after a minute, exit 69",
        sends(OK + HUGE, b" ", pause=0.02),
        Unreachable,
    ),
    Answer(
        "dripping-head",
        "headers of a byte now and then",
        "given up after a minute, exit 69",
        sends(OK, b"X", pause=0.02),
        Unreachable,
    ),
    Answer(
        "endless-head",
        "headers without end",
        "given up after 100 KB, exit 69",
        sends(OK + b"X: ", bytes([120]) * 65536),
        Unreachable,
    ),
    Answer(
        "endless-continue",
        "100 Continue for ever",
        "given up after a minute, exit 69",
        sends(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.001),
        Unreachable,
    ),
    Answer("silence", "nothing", "given up, exit 69", silence, Unreachable),
    Answer(
        "compressed-bomb",
        "64 MB of zeros in 64 KB (gzip), which nobody asked for",
        "never unpacked, exit 76",
        says(ZEROS, OK + b"Content-Encoding: gzip\r\n"),
        why="broken",
    ),
    Answer(
        "redirect",
        "go elsewhere",
        "never followed, exit 76",
        says(b"", b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/\r\n"),
    ),
    Answer(
        "redirected-refusal",
        "go elsewhere, to a site that refuses a round",
        "no answer to a refusal, exit 76",
        says(b"", b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://elsewhere/\r\n"),
        asked=refuses,
    ),
    Answer(
        "duplicate-key", "JSON with a key twice", "exit 76", says(b'{"retry_after":1,"retry_after":2}'), why="twice"
    ),
    Answer("nan", "JSON with NaN", "exit 76", says(b'{"retry_after":NaN}'), why="no JSON number"),
    Answer(
        "deep-json",
        "JSON nested deeper than any message",
        "exit 76, before it is parsed",
        says(b"[" * (MAX_DEPTH + 1)),
        why="nested",
    ),
    Answer(
        "unknown-field", "a field that nobody knows", "exit 76", says(b'{"retry_after":1,"run":"rm -rf /"}'), why="run"
    ),
    Answer(
        "wait-for-ever",
        "come again in 10^30 seconds",
        "exit 75 at once; the schedule goes on",
        says(b"", b"HTTP/1.1 503 Busy\r\nRetry-After: 1%s\r\n" % (b"0" * 30)),
        TryAgainLater,
        "86400",
    ),
    Answer(
        "terminal-escape",
        "a refusal that draws on the terminal",
        "shown without its control characters",
        says(b'{"type":"x","title":"\\u001b[2J","status":403}', b"HTTP/1.1 403 No\r\n"),
        NotAuthorised,
    ),
    Answer(
        "endless-model",
        "more bytes than the ticket names",
        "cut off there, exit 76",
        sends(OK + CHUNKED, BLOCK),
        why="larger",
        asked=downloads,
    ),
    Answer(
        "other-model",
        "as many bytes as the ticket names, but others",
        "exit 76; the bytes are removed",
        says(bytes(1 << 20)),
        why="not the one",
        asked=downloads,
    ),
    Answer(
        "dripping-model",
        "a model of a byte now and then",
        "given up; what came is kept, exit 69",
        sends(OK + HUGE, b"x", pause=0.02),
        Unreachable,
        asked=downloads,
    ),
    Answer(
        "takes-nothing",
        "a server that takes no bytes of an update",
        "given up; goes on next time, exit 69",
        takes_nothing,
        Unreachable,
        asked=uploads,
    ),
    Answer(
        "another-root",
        "EST: an authority other than the invitation's",
        "exit 76; the secret is not sent",
        est(of_another_authority),
        asked=fetches_authority,
    ),
    Answer(
        "no-certificates",
        "EST: rubbish for certificates",
        "exit 76",
        est(lambda federation: b"AAAA"),
        why="PKCS#7",
        asked=fetches_authority,
    ),
    Answer("many-certificates", "EST: 500 certificates", "exit 76", est(many), asked=fetches_authority),
    Answer(
        "anothers-certificate",
        "EST: a certificate for another key",
        "exit 76; nothing is kept",
        est(of_another_key),
        why="this site's key",
        asked=enrols,
    ),
)


# --- whom they are told ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, TlsIdentity]:
    """A federation and an enrolled site's identity."""
    folder = tmp_path_factory.mktemp("hostile")
    federation, key = make(folder / "federation"), enrolment.new_key()
    certificate = enrolment.to_pem([federation.authority.issue_site(key.public_key(), "site-a", utc_now())])
    root = federation.ca_certificate.read_bytes()
    return federation, write_identity(folder, certificate, enrolment.key_to_pem(key, "a passphrase"), root)


@pytest.mark.parametrize("attack", cases(ATTACKS))
def test_answer(attack: Answer, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_ANSWER", SHORT)
    monkeypatch.setattr(watchdog, "LONGEST_WAIT", SHORT)
    federation, identity = place
    with lying(federation, attack.lie(federation)) as liar:
        scene = Scene(federation, identity, tmp_path, liar)
        began = time.monotonic()
        tracemalloc.start()
        try:
            with pytest.raises(attack.error, match=attack.why) as caught:
                attack.asked(scene)
            memory = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert time.monotonic() - began < LONGEST
    assert memory < MEMORY
    assert caught.value.message.isprintable()
    assert not (tmp_path / "model.safetensors").exists()
    if attack.asked is fetches_authority:
        assert all(b"authorization" not in head.lower() for head in liar.asked), "the secret stayed here"


def test_the_secret_is_not_told_to_another_server(place: Any, tmp_path: Path) -> None:
    """One with a certificate of another authority: TLS ends before anything is said."""
    other = make(tmp_path / "other")
    federation, identity = place
    with lying(other, says(b"{}")(other)) as liar:
        with pytest.raises(ServerBrokeProtocol):
            enrols(Scene(federation, identity, tmp_path, liar))
        assert liar.asked == []
