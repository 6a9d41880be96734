"""Enrolment over real TLS with our own client, under a root of the federation's own and under a consortium's."""

import base64
import contextlib
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.authorities import chain_of_three, write
from support.federation import Server, enrol, environment, running, tensors, update_file, write_identity

from fedsite.errors import NotAuthorised, ServerBrokeProtocol, TryAgainLater, UsageError
from fedsite.server.authority.authority import Authority
from fedsite.server.members import enrolment as admissions
from fedsite.server.store.storage import UploadRow
from fedsite.server.web.app import create_app
from fedsite.server.web.door import OPEN
from fedsite.wire import enrolment, transfer
from fedsite.wire.client import TlsIdentity, ask_federation
from fedsite.wire.enrolment import EST, Invitation
from fedsite.wire.messages import Problem, parse, utc_now
from fedsite.wire.transport import Patience, trusting

FOREIGN_CLIENT = Path(__file__).with_name("foreign_client.sh")
AUTHORITIES = ["own root", "intermediate of a chain of three"]


@pytest.fixture(scope="module", params=AUTHORITIES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    supplied = None if request.param == AUTHORITIES[0] else write(folder / "ca", chain_of_three())
    with running(folder / "federation", supplied=supplied) as server:
        yield server


def test_enrolled_site_is_served(server: Server, site_a: TlsIdentity) -> None:
    with server.client(site_a) as client:
        trust = client.trust()
        assert (trust.site, trust.federation, trust.agreement) == ("site-a", "test-federation", "Be kind.")
        assert abs(client.clock_skew() or 99) < 5
    assert ask_federation(server.url, site_a.ca)[0].protocol_versions == [1]


def test_subject_comes_from_the_server(server: Server, site_a: TlsIdentity) -> None:
    certificate = x509.load_pem_x509_certificate(site_a.certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=site-a,O=test-federation"
    assert (certificate.not_valid_after_utc - utc_now()).days in (89, 90)


def test_key_is_stored_encrypted(server: Server, site_a: TlsIdentity) -> None:
    assert site_a.key.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "passphrase" not in repr(site_a)


def test_same_key_again_gets_the_same_certificate(server: Server) -> None:
    invitation = Invitation.decode(server.invite("lost-answer"))
    authority = enrolment.fetch_ca(invitation.server, invitation.ca_sha256)
    key = enrolment.new_key()
    assert enrolment.enroll(invitation, authority, key) == enrolment.enroll(invitation, authority, key)


def test_of_certificates_of_one_second_the_last_is_the_answer(server: Server) -> None:
    key = enrolment.new_key()
    for _ in range(4):
        invitation = Invitation.decode(server.invite("in-a-hurry"))
        authority = enrolment.fetch_ca(invitation.server, invitation.ca_sha256)
        assert enrolment.enroll(invitation, authority, key) == enrolment.enroll(invitation, authority, key)


def test_another_key_with_a_spent_invitation_is_refused(server: Server, tmp_path: Path) -> None:
    invitation = Invitation.decode(server.invite("stolen-invitation"))
    enrol(invitation, tmp_path / "first")
    with pytest.raises(NotAuthorised, match="served another key"):
        enrol(invitation, tmp_path / "second")
    assert _simple_enroll_status(server, invitation) == 403


def test_wrong_secret_is_refused(server: Server, tmp_path: Path) -> None:
    good = Invitation.decode(server.invite("guessed"))
    for wrong in (
        Invitation(good.server, "guessed", enrolment.new_secret(), good.ca_sha256),
        Invitation(good.server, "somebody-else", good.secret, good.ca_sha256),
    ):
        assert _simple_enroll_status(server, wrong) == 401
        with pytest.raises(NotAuthorised):
            enrol(wrong, tmp_path / "guessed")


def test_expired_invitation_is_refused(server: Server, tmp_path: Path) -> None:
    line = server.invite("too-late", hours=-1)
    with pytest.raises(NotAuthorised, match="expired"):
        enrol(Invitation.decode(line), tmp_path / "too-late")


def test_wrong_fingerprint_trusts_nobody(server: Server) -> None:
    with pytest.raises(ServerBrokeProtocol, match="certificate authority") as caught:
        enrolment.fetch_ca(server.url, "0" * 64)
    assert "nothing was sent" in caught.value.mend


def test_reenrolment_brings_a_certificate_for_a_new_key(server: Server, tmp_path: Path) -> None:
    identity = server.enrol("renewer", tmp_path / "renewer")
    key = enrolment.new_key()
    renewed = x509.load_pem_x509_certificate(enrolment.reenroll(server.url, identity, key))
    before = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    assert renewed.subject == before.subject
    assert renewed.public_key() == key.public_key() != before.public_key()


def test_whoever_shows_a_certificate_shows_what_leads_to_the_root(server: Server, site_a: TlsIdentity) -> None:
    authority = server.federation.authority
    shown = x509.load_pem_x509_certificates(site_a.certificate.read_bytes())
    assert shown[1:] == authority.intermediates
    assert site_a.ca.read_bytes() == enrolment.to_pem([authority.root])


def test_a_leaf_alone_is_enough_for_the_server(server: Server, tmp_path: Path) -> None:
    """EST answers with the certificate alone: a foreign client may never have looked for the intermediates."""
    identity = server.enrol("leaf-only", tmp_path / "leaf-only")
    leaf = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    identity.certificate.write_bytes(enrolment.to_pem([leaf]))
    with server.client(identity) as client:
        assert client.trust().site == "leaf-only"


def test_a_person_approves_before_the_first_certificate(server: Server, tmp_path: Path) -> None:
    federation, key = server.federation, enrolment.new_key()
    invitation = admissions.invite(federation, "careful", timedelta(hours=1), server.url, approval=True)
    authority = enrolment.fetch_ca(invitation.server, invitation.ca_sha256)
    sha256 = enrolment.spki_sha256(key.public_key())
    for _ in range(2):
        with pytest.raises(TryAgainLater, match=sha256) as caught:
            enrolment.enroll(invitation, authority, key)
        assert "in 60 seconds at the earliest" in caught.value.mend
    assert admissions.approve(federation, "careful") == sha256
    certificate = enrolment.enroll(invitation, authority, key)
    tls = write_identity(tmp_path, certificate, enrolment.key_to_pem(key, "a passphrase"), authority)
    with server.client(tls) as client:
        assert client.trust().site == "careful"


def test_revocation_stops_an_upload_that_is_under_way(server: Server, tmp_path: Path) -> None:
    identity = server.enrol("sender", tmp_path / "sender")
    number = server.open_round(tmp_path, shapes={"weight": (2048, 2048)})
    update = update_file(tmp_path / "update", tensors(1, {"weight": (2048, 2048)})).read_bytes()
    address = ("localhost", server.port)
    with (
        httpx.Client(base_url=server.url, verify=identity.context(), trust_env=False) as http,
        socket.create_connection(address) as bare,
        identity.context().wrap_socket(bare, server_hostname="localhost") as line,
    ):
        headers = {
            "Repr-Digest": transfer.repr_digest(hashlib.sha256(update).hexdigest()),
            "Upload-Length": str(len(update)),
            "Fedsite-Ledger-Sequence": "1",
        }
        path = http.post(f"/v1/rounds/{number}/updates", headers=headers).headers["location"]
        line.sendall(
            f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/partial-upload\r\n"
            f"Upload-Offset: 0\r\nContent-Length: {len(update)}\r\n\r\n".encode()
        )
        line.sendall(update[: 1 << 20])
        assert admissions.revoke(server.federation, "sender") == 1
        sent, answer = _drip(line, update[1 << 20 :])
    assert b" 403 " in answer.partition(b"\r\n")[0]
    assert b"certificate-revoked" in answer
    assert b"connection: close" in answer.lower()
    assert sent < len(update) / 2
    with server.federation.database.reading() as session:
        upload = session.get(UploadRow, path.rpartition("/")[2])
    assert (upload.state, upload.receipt) == ("receiving", None)
    assert upload.offset < len(update)


def _drip(line: ssl.SSLSocket, content: bytes, size: int = 1 << 16) -> tuple[int, bytes]:
    """Sends slowly until the server answers; how much, and the answer up to the connection's end."""
    sent, answer = 0, b""
    line.settimeout(0.1)
    while not answer:
        assert sent < len(content), "the server took it all"
        line.sendall(content[sent : sent + size])
        sent += size
        with contextlib.suppress(TimeoutError):
            answer = line.recv(1 << 16)
    line.settimeout(10)
    with contextlib.suppress(ConnectionError):
        while block := line.recv(1 << 16):
            answer += block
    return sent, answer


def test_a_client_that_is_not_ours(server: Server, tmp_path: Path) -> None:
    """openssl and curl: enrol, repeat, re-enrol, wrong token, spent token, weak key, pending, revoked."""
    for tool in ("curl", "openssl"):
        if shutil.which(tool) is None:
            message = f"{tool} is not here (scripts/setup --test-tools)"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    to_approve = admissions.invite(server.federation, "foreign-2", timedelta(hours=1), server.url, approval=True)
    done = subprocess.run(
        [FOREIGN_CLIENT, tmp_path, server.invite("foreign-1"), to_approve.encode(), *server.command],
        env=environment() | {"FEDERATION": str(server.folder)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nok ") > 30, done.stdout


def test_nothing_but_the_open_routes_answers_a_client_without_a_certificate(server: Server) -> None:
    with httpx.Client(base_url=server.url, verify=trusting(_ca(server)), trust_env=False) as http:
        for method, path in _routes(server):
            answer = http.request(method, path)
            if (method, path) in OPEN:
                assert answer.status_code != 403, path
            else:
                assert answer.status_code == 401, (method, path)
                assert method == "HEAD" or parse(Problem, answer.content).type == "certificate-needed"


def test_nothing_answers_a_revoked_certificate(server: Server, tmp_path: Path) -> None:
    identity = server.enrol("outcast", tmp_path / "outcast")
    with httpx.Client(base_url=server.url, verify=identity.context(), trust_env=False) as http:
        assert http.get("/v1/trust").status_code == 200
        assert admissions.revoke(server.federation, "outcast") == 1
        for method, path in _routes(server):
            answer = http.request(method, path)
            if (method, path) not in OPEN:
                assert answer.status_code == 403, (method, path)
                assert method == "HEAD" or parse(Problem, answer.content).type == "certificate-revoked"
    with server.client(identity) as client, pytest.raises(NotAuthorised, match="revoked"):
        client.trust()
    with pytest.raises(UsageError, match="no site"):
        admissions.revoke(server.federation, "never-seen")


def test_nothing_answers_a_foreign_certificate(server: Server, tmp_path: Path) -> None:
    identity = _foreign(server, tmp_path)
    for method, path in _routes(server):
        with (
            httpx.Client(base_url=server.url, verify=identity.context(), trust_env=False) as http,
            pytest.raises(httpx.TransportError),
        ):
            http.request(method, path)


def test_foreign_certificate_is_explained(server: Server, tmp_path: Path) -> None:
    identity = _foreign(server, tmp_path)
    with server.client(identity, patience=0.5) as client, pytest.raises(NotAuthorised, match="once this site shows"):
        client.trust()


def test_certificate_of_our_root_that_the_database_does_not_know_is_refused(server: Server, tmp_path: Path) -> None:
    identity = _issued(server.federation.authority, tmp_path, _ca(server), "ghost", timedelta())
    with server.client(identity) as client, pytest.raises(NotAuthorised, match="not issued to a site"):
        client.trust()


def test_certificate_of_another_authority_is_let_in_once_it_is_registered(server: Server, tmp_path: Path) -> None:
    federation, key = server.federation, enrolment.new_key()
    other = chain_of_three() if federation.authority.intermediates else federation.authority
    certificates = [other.issue_site(key.public_key(), "st-mary", utc_now()), *other.intermediates]
    identity = write_identity(
        tmp_path, enrolment.to_pem(certificates), enrolment.key_to_pem(key, "a passphrase"), _ca(server)
    )
    with server.client(identity) as client, pytest.raises(NotAuthorised, match="not issued to a site"):
        client.trust()
    admissions.register(federation, "st-mary", certificates)
    with server.client(identity) as client:
        assert client.trust().site == "st-mary"


def test_expired_certificate_is_named_before_connecting(server: Server, tmp_path: Path) -> None:
    identity = _issued(server.federation.authority, tmp_path, _ca(server), "old", timedelta(days=-100))
    with pytest.raises(NotAuthorised, match="expired"):
        server.client(identity)
    early = _issued(server.federation.authority, tmp_path / "early", _ca(server), "early", timedelta(days=9))
    with pytest.raises(NotAuthorised, match="is valid from"):
        server.client(early)


def test_server_of_another_federation_is_not_talked_to(server: Server, site_a: TlsIdentity, tmp_path: Path) -> None:
    stranger = Authority.create("stranger", utc_now())
    (tmp_path / "ca.pem").write_bytes(enrolment.to_pem([stranger.root]))
    deceived = TlsIdentity(site_a.certificate, site_a.key, site_a.passphrase, tmp_path / "ca.pem")
    with server.client(deceived) as client, pytest.raises(ServerBrokeProtocol, match="not this federation's"):
        client.trust()


def test_old_tls_is_refused(server: Server) -> None:
    context = trusting(_ca(server))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        httpx.Client(base_url=server.url, verify=context, trust_env=False) as http,
        pytest.raises(httpx.TransportError),
    ):
        http.get("/v1/federation")


def _routes(server: Server) -> list[tuple[str, str]]:
    """Every route of the application, and one that does not exist."""
    app = create_app(server.federation, lambda: None)
    given = {"sha256": "0" * 64, "upload_id": "0" * 32, "number": "1"}
    routes = [(method, route.path.format(**given)) for route in app.routes for method in route.methods]
    assert len(routes) >= 14
    assert set(routes) >= OPEN
    return [*routes, ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("DELETE", "/v1/trust")]


def _simple_enroll_status(server: Server, invitation: Invitation) -> int:
    with httpx.Client(base_url=server.url, verify=trusting(_ca(server)), trust_env=False) as http:
        request = enrolment.signing_request(enrolment.new_key(), invitation.site)
        body = base64.encodebytes(request.public_bytes(Encoding.DER))
        auth, headers = (invitation.site, invitation.secret), {"Content-Type": enrolment.PKCS10_TYPE}
        return http.post(f"{EST}/simpleenroll", content=body, auth=auth, headers=headers).status_code


def _ca(server: Server) -> bytes:
    return enrolment.to_pem([server.federation.authority.root])


def _foreign(server: Server, folder: Path) -> TlsIdentity:
    return _issued(Authority.create("test-federation", utc_now()), folder, _ca(server), "site-a", timedelta())


def _issued(authority: Authority, folder: Path, ca: bytes, site: str, shift: timedelta) -> TlsIdentity:
    key = enrolment.new_key()
    certificate = authority.issue_site(key.public_key(), site, utc_now() + shift)
    return write_identity(folder, enrolment.to_pem([certificate]), enrolment.key_to_pem(key, "a passphrase"), ca)


def test_patience_ends_when_no_server_is_there(site_a: TlsIdentity) -> None:
    from fedsite.errors import Unreachable
    from fedsite.wire.client import ask_federation

    with pytest.raises(Unreachable, match=r"localhost:1 refuses connections") as error:
        ask_federation("https://localhost:1", site_a.ca, patience=0.2)
    assert "fedsite check" in error.value.mend
    with pytest.raises(Unreachable):
        enrolment.fetch_ca("https://localhost:1", "0" * 64, patience=Patience(0.2))
