"""Invitations, certificates and keys as bytes."""

import base64
import datetime
from collections.abc import Callable

import httpx
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from support.authorities import certificate_of, chain_of_three
from support.federation import write_identity

from fedsite.errors import NotAuthorised, RecordsDamaged, ServerBrokeProtocol, TryAgainLater, Unreachable, UsageError
from fedsite.server.authority.authority import Authority
from fedsite.wire import enrolment
from fedsite.wire.diagnosis import Trouble
from fedsite.wire.enrolment import Invitation
from fedsite.wire.messages import MalformedMessage, utc_now
from fedsite.wire.transport import Connection, Patience

INVITATION = Invitation("https://fed.example.org:8443", "site-a", enrolment.new_secret(), "ab" * 32)
KEY, AUTHORITY = enrolment.new_key(), chain_of_three()
ANSWER = enrolment.encode_certificates([AUTHORITY.issue_site(KEY.public_key(), "a", utc_now()), *AUTHORITY.chain])
ROOT = enrolment.to_pem([AUTHORITY.root])
names = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
servers = st.from_regex(r"\Ahttps://[A-Za-z0-9.-]{1,60}(:[0-9]{1,5})?\Z")


@given(servers, names, st.binary(min_size=32, max_size=32))
def test_round_trip(server: str, site: str, digest: bytes) -> None:
    invitation = Invitation(server, site, enrolment.new_secret(), digest.hex())
    line = invitation.encode()
    assert Invitation.decode(f"  {line}\n") == invitation
    assert line.isascii()
    assert not set(line) & set(" \t\n\"'&?#/+$")


@given(st.integers(0, 400), st.sampled_from("aZ09.-_ "))
def test_a_changed_line_is_refused(place: int, sign: str) -> None:
    line = INVITATION.encode()
    place %= len(line)
    changed = line[:place] + sign + line[place + 1 :]
    if changed.strip() != line:
        with pytest.raises(UsageError) as caught:
            Invitation.decode(changed)
        assert caught.value.mend


@given(st.text(max_size=300))
def test_any_text_is_answered_kindly(text: str) -> None:
    with pytest.raises(UsageError):
        Invitation.decode(text)


@pytest.mark.parametrize("cut", [1, 9, 20, 200])
def test_a_torn_line_is_refused(cut: int) -> None:
    with pytest.raises(UsageError):
        Invitation.decode(INVITATION.encode()[:-cut])


def test_content_is_checked_behind_a_right_checksum() -> None:
    def line(content: bytes) -> str:
        body = base64.urlsafe_b64encode(content).decode().rstrip("=")
        return f"fedsite-invitation-1.{body}.{enrolment._checksum(body)}"

    good = base64.urlsafe_b64decode(INVITATION.encode().split(".")[1] + "==")
    assert Invitation.decode(line(good)) == INVITATION
    for wrong in (
        good.replace(b"https", b"http "),
        good.replace(b'"site"', b'"town"'),
        good.replace(b"}", b',"more":1}'),
        b"[]",
    ):
        with pytest.raises(UsageError, match="cannot be used"):
            Invitation.decode(line(wrong))


@pytest.mark.parametrize(
    "wrong",
    [{"server": "http://a"}, {"site": "Site A"}, {"secret": "short"}, {"ca_sha256": "ab"}, {"server": "https://a/b"}],
)
def test_an_invitation_that_could_not_be_read_is_not_made(wrong: dict[str, str]) -> None:
    good = {"server": "https://a", "site": "a", "secret": enrolment.new_secret(), "ca_sha256": "0" * 64}
    with pytest.raises(UsageError, match="cannot hold"):
        Invitation(**(good | wrong)).encode()


def test_secret_stays_out_of_reprs() -> None:
    assert INVITATION.secret not in repr(INVITATION)


def test_key_needs_its_passphrase() -> None:
    key = enrolment.new_key()
    pem = enrolment.key_to_pem(key, "right")
    assert b"ENCRYPTED" in pem
    assert enrolment.key_from_pem(pem, "right").private_numbers() == key.private_numbers()
    for content, passphrase in ((pem, "wrong"), (pem[:-40], "right"), (b"", "right")):
        with pytest.raises(RecordsDamaged):
            enrolment.key_from_pem(content, passphrase)


def test_certificates_round_trip() -> None:
    certificates = [Authority.create(name, utc_now()).root for name in ("one", "two")]
    found = enrolment.decode_certificates(enrolment.encode_certificates(certificates))
    assert sorted(map(enrolment.fingerprint, found)) == sorted(map(enrolment.fingerprint, certificates))


@given(st.binary(max_size=200))
def test_broken_certificates_are_malformed(content: bytes) -> None:
    for body in (content, base64.b64encode(content)):
        with pytest.raises(MalformedMessage):
            enrolment.decode_certificates(body)


@pytest.fixture
def authority() -> Authority:
    return Authority.create("test", utc_now())


def issued(certificates: list[x509.Certificate], key, root: x509.Certificate, cacerts: list[x509.Certificate]) -> bytes:
    """What the client makes of a server's two answers: the one to its request, and the authority's chain."""
    bodies = {"simpleenroll": certificates, "cacerts": cacerts}
    answers = {f"{enrolment.EST}/{route}": enrolment.encode_certificates(body) for route, body in bodies.items()}
    return asked(lambda request: answer(answers[request.url.path]), key, root)


def answer(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=headers, content=iter([body]))


def asked(server: Callable[[httpx.Request], httpx.Response], key, root: x509.Certificate) -> bytes:
    patience, client = Patience(0), httpx.Client(base_url="https://a", transport=httpx.MockTransport(server))
    with Connection(client) as http:
        request = enrolment.signing_request(key, "site-a")
        first = enrolment._request_certificate(http, "simpleenroll", request, patience)
        return enrolment._issued(http, first, enrolment.to_pem([root]), key, patience)


def test_an_answer_must_hold_a_certificate_for_our_key_from_our_authority(authority: Authority) -> None:
    key, stranger = enrolment.new_key(), Authority.create("test", utc_now())
    mine = authority.issue_site(key.public_key(), "site-a", utc_now())
    root, cacerts = authority.root, [authority.root]
    assert issued([mine], key, root, cacerts) == enrolment.to_pem([mine])
    assert issued([mine, root], key, root, cacerts) == enrolment.to_pem([mine])
    second = authority.issue_site(key.public_key(), "site-a", utc_now())
    for certificates, asker in (([mine], enrolment.new_key()), ([mine, second], key)):
        with pytest.raises(ServerBrokeProtocol, match="not one certificate for this site's key"):
            issued(certificates, asker, root, cacerts)
    theirs = stranger.issue_site(key.public_key(), "site-a", utc_now())
    for cacerts in ([authority.root], [stranger.root], [stranger.root, authority.root]):
        with pytest.raises(ServerBrokeProtocol, match="does not lead to the federation's authority"):
            issued([theirs], key, root, cacerts)


def test_intermediates_come_by_cacerts_and_follow_the_certificate_in_order() -> None:
    authority, key = chain_of_three(), enrolment.new_key()
    mine = authority.issue_site(key.public_key(), "site-a", utc_now())
    signer, policy, root = authority.chain
    for cacerts in ([root, signer, policy], [policy, root, signer]):
        assert issued([mine], key, root, cacerts) == enrolment.to_pem([mine, signer, policy])
    with pytest.raises(ServerBrokeProtocol, match="does not lead"):
        issued([mine], key, root, [root, signer])
    with pytest.raises(ServerBrokeProtocol, match="does not lead"):
        issued([mine], key, Authority.create("another", utc_now()).root, [root, signer, policy])


def test_certificates_that_sign_each_other_end_the_search() -> None:
    one, two = enrolment.new_key(), enrolment.new_key()
    first = certificate_of("one", one.public_key(), "two", two)
    second = certificate_of("two", two.public_key(), "one", one)
    assert enrolment.path_from(first, [second, first, second])[:2] == [first, second]
    with pytest.raises(ServerBrokeProtocol, match="does not lead"):
        issued([first], one, Authority.create("another", utc_now()).root, [second])


def test_approval_is_awaited(authority: Authority) -> None:
    key = enrolment.new_key()
    with pytest.raises(TryAgainLater) as caught:
        asked(lambda request: answer(b"", 202, {"Retry-After": "30"}), key, authority.root)
    assert enrolment.spki_sha256(key.public_key()) in caught.value.message
    assert "30 seconds" in caught.value.mend
    with pytest.raises(TryAgainLater, match="in a while"):
        asked(lambda request: answer(b"", 202), key, authority.root)


def test_server_that_answers_rubbish(authority: Authority) -> None:
    many = enrolment.encode_certificates([Authority.create(f"n{number}", utc_now()).root for number in range(17)])
    for content in (b"rubbish", b"", base64.b64encode(b"\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"), many):
        with pytest.raises(ServerBrokeProtocol, match="broken"):
            asked(
                lambda request, content=content: answer(content),
                enrolment.new_key(),
                authority.root,
            )


def test_what_is_no_der_is_not_tried_as_ber() -> None:
    der = base64.b64decode(ANSWER)
    indefinite = b"\x30\x80" + der[4:] + b"\x00\x00"
    with pytest.raises(MalformedMessage):
        enrolment.decode_certificates(base64.b64encode(indefinite))


@given(st.data())
def test_answers_with_any_bytes_changed_are_used_or_refused(data: st.DataObject) -> None:
    der = bytearray(base64.b64decode(ANSWER))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        certificates = enrolment.decode_certificates(base64.b64encode(der))
        chain = enrolment.own_chain(certificates, KEY.public_key(), ROOT)
    except ValueError:
        return
    assert x509.load_pem_x509_certificate(chain).public_key() == KEY.public_key()


def test_a_renewal_asks_for_the_names_of_the_present_certificate(authority: Authority) -> None:
    key = enrolment.new_key()
    present = authority.issue_site(enrolment.new_key().public_key(), "site-a", utc_now())
    request = enrolment.renewal_request(key, present)
    assert request.is_signature_valid
    assert (request.subject, request.public_key()) == (present.subject, key.public_key())
    names = x509.SubjectAlternativeName
    assert request.extensions.get_extension_for_class(names) == present.extensions.get_extension_for_class(names)
    assert not enrolment.renewal_request(key, authority.root).extensions


def test_identity_is_checked_before_anything_is_sent(tmp_path, authority: Authority) -> None:
    key = enrolment.new_key()
    certificate = enrolment.to_pem([authority.issue_site(key.public_key(), "a", utc_now())])
    root = enrolment.to_pem([authority.root])
    tls = write_identity(tmp_path, certificate, enrolment.key_to_pem(key, "a passphrase"), root)
    tls.check_dates(utc_now())
    tls.context()
    with pytest.raises(NotAuthorised, match="expired"):
        tls.check_dates(utc_now() + datetime.timedelta(days=91))
    tls.key.write_bytes(enrolment.key_to_pem(enrolment.new_key(), "a passphrase"))
    with pytest.raises(RecordsDamaged, match="does not fit"):
        tls.context()
    tls.key.write_bytes(enrolment.key_to_pem(key, "another passphrase"))
    with pytest.raises(RecordsDamaged, match="does not fit"):
        tls.context()
    tls.certificate.write_bytes(b"rubbish")
    with pytest.raises(RecordsDamaged):
        tls.check_dates(utc_now())
    tls.certificate.unlink()
    for act in (tls.context, lambda: tls.check_dates(utc_now())):
        with pytest.raises(NotAuthorised, match="no certificate"):
            act()


def test_patience_has_an_end() -> None:
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds + 0.001

    patience = Patience(100.0, lambda: now[0], sleep)

    def wait_for_ever() -> None:
        while True:
            patience.pause(Trouble("cut"))

    with pytest.raises(Unreachable, match="100 seconds: cut"):
        wait_for_ever()
    assert 100 <= now[0] < 101
    assert len(slept) > 8
    assert max(slept) <= 15
    patience.progress()
    patience.pause(Trouble("cut"))
    with pytest.raises(TryAgainLater, match="600 seconds"):
        patience.pause(Trouble("full"), at_least=600)
