"""The folder: private, made whole or not at all; certificates that end in time."""

import errno
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from support.federation import make, tensors, update_file

from fedsite.errors import CannotWrite, ConfigurationError, SourceMissing, UsageError
from fedsite.server import federation
from fedsite.server.authority.authority import is_strong
from fedsite.server.exchange import uploads
from fedsite.server.members import enrolment
from fedsite.server.problems import Refused
from fedsite.server.store.blobs import FolderBlobs
from fedsite.server.store.storage import FederationRow
from fedsite.wire.enrolment import new_key, signing_request

REQUEST = signing_request(new_key(), "site-a").public_bytes(Encoding.DER)


def test_everything_is_private(bench) -> None:
    for path in [bench.federation.folder, *bench.federation.folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "Not A Name"},
        {"hosts": ["no host"]},
        {"hosts": ["-"]},
        {"url": "http://localhost"},
        {"url": "https://localhost/path"},
        {"agreement": "x" * 200_001},
    ],
)
def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, settings: dict) -> None:
    with pytest.raises(UsageError):
        make(tmp_path / "federation", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(federation.Database, "create", fails)
    with pytest.raises(RuntimeError):
        make(tmp_path / "federation")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_given_back_empty(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(federation, "fsync_folder", _no_space)
    with pytest.raises(CannotWrite, match="No space"):
        make(folder)
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    make(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_in_use_is_left_alone(bench) -> None:
    with pytest.raises(UsageError, match="not empty"):
        make(bench.federation.folder)


def test_no_federation_here(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no federation"):
        federation.open_federation(tmp_path)


def test_keys_that_others_can_read_are_refused(bench) -> None:
    (bench.federation.folder / "keys" / "ca.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="not this user's alone"):
        federation.open_federation(bench.federation.folder)


def test_a_damaged_key_is_named(bench) -> None:
    key = bench.federation.folder / "keys" / "round.key"
    key.write_bytes(key.read_bytes()[:-60])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        federation.open_federation(bench.federation.folder)
    key.write_bytes((bench.federation.folder / "keys" / "ca.key").read_bytes())
    with pytest.raises(ConfigurationError, match="cannot be read"):
        federation.open_federation(bench.federation.folder)


def test_server_certificate_is_renewed_after_two_thirds_of_its_life(bench) -> None:
    def expires():
        return x509.load_pem_x509_certificate(bench.federation.server_certificate.read_bytes()).not_valid_after_utc

    first = expires()
    bench.clock.pass_by(days=59)
    assert not federation.renew_server_certificate(bench.federation)
    assert expires() == first
    bench.clock.pass_by(days=2)
    assert federation.renew_server_certificate(bench.federation)
    assert expires() - first == timedelta(days=61)


def test_site_certificate_ends_after_ninety_days_at_the_next_request(bench) -> None:
    certificate = _enrol(bench, "site-a", new_key())
    der = certificate.public_bytes(Encoding.DER)
    assert enrolment.authenticate(bench.federation, der) == "site-a"
    bench.clock.pass_by(days=90)
    with pytest.raises(Refused) as caught:
        enrolment.authenticate(bench.federation, der)
    assert caught.value.problem.type == "certificate-expired"


def test_invitation_is_stored_hashed(bench) -> None:
    invitation = enrolment.invite(bench.federation, "site-a", timedelta(hours=1), bench.federation.url)
    bench.federation.database.close()
    for path in bench.federation.folder.glob("federation.db*"):
        assert invitation.secret.encode() not in path.read_bytes()
    assert invitation.secret not in repr(invitation)


def test_lost_answer_is_repeated_even_after_the_invitation_has_expired(bench) -> None:
    key = new_key()
    invitation = enrolment.invite(bench.federation, "site-a", timedelta(hours=1), bench.federation.url)
    request = signing_request(key, "site-a").public_bytes(Encoding.DER)
    first = enrolment.enrol(bench.federation, "site-a", invitation.secret, request)
    bench.clock.pass_by(hours=2)
    assert enrolment.enrol(bench.federation, "site-a", invitation.secret, request) == first
    enrolment.revoke(bench.federation, "site-a")
    with pytest.raises(Refused) as caught:
        enrolment.enrol(bench.federation, "site-a", invitation.secret, request)
    assert caught.value.problem.type == "invitation-revoked"


def test_request_is_judged(bench) -> None:
    invitation = enrolment.invite(bench.federation, "site-a", timedelta(hours=1), bench.federation.url)
    name = x509.Name([])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    weak = {
        "key-weak": [
            builder.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256()),
            builder.sign(ec.generate_private_key(ec.SECP521R1()), hashes.SHA256()),
            builder.sign(ed25519.Ed25519PrivateKey.generate(), None),
        ]
    }
    good = builder.sign(new_key(), hashes.SHA256()).public_bytes(Encoding.DER)
    unproven = good[:-1] + bytes([good[-1] ^ 1])
    cases = [(kind, one.public_bytes(Encoding.DER)) for kind, all_ in weak.items() for one in all_]
    cases += [("request-malformed", b""), ("request-malformed", b"\x30\x03\x02\x01\x01")]
    for kind, request in [*cases, ("request-unproven", unproven)]:
        with pytest.raises(Refused) as caught:
            enrolment.enrol(bench.federation, "site-a", invitation.secret, request)
        assert (caught.value.problem.type, caught.value.problem.status) == (kind, 400)
    assert enrolment.enrol(bench.federation, "site-a", invitation.secret, good)


@given(st.data())
def test_any_bytes_are_judged_or_refused(data: st.DataObject) -> None:
    request = bytearray(REQUEST)
    for _ in range(data.draw(st.integers(1, 3))):
        request[data.draw(st.integers(0, len(request) - 1))] = data.draw(st.integers(0, 255))
    del request[data.draw(st.integers(1, len(request))) :]
    try:
        fine = is_strong(enrolment._requested_key(bytes(request)))
    except Refused as refused:
        fine = refused.problem.status == 400
    assert fine


def test_a_young_certificate_is_given_again_to_its_key_and_an_older_one_replaced(bench) -> None:
    key = new_key()
    first = _enrol(bench, "site-a", key)
    request = signing_request(key, "ignored").public_bytes(Encoding.DER)
    bench.clock.pass_by(days=10)
    assert enrolment.reenrol(bench.federation, "site-a", request) == first
    bench.clock.pass_by(days=30)
    assert enrolment.reenrol(bench.federation, "site-a", request) != first


def test_a_revoked_site_gets_no_certificate_although_it_was_let_in_a_moment_ago(bench) -> None:
    certificate = _enrol(bench, "site-a", new_key())
    assert enrolment.authenticate(bench.federation, certificate.public_bytes(Encoding.DER)) == "site-a"
    enrolment.revoke(bench.federation, "site-a")
    with pytest.raises(Refused) as caught:
        enrolment.reenrol(bench.federation, "site-a", REQUEST)
    assert caught.value.problem.type == "certificate-revoked"


def test_a_revoked_site_gets_no_receipt_although_its_bytes_have_come(bench) -> None:
    _enrol(bench, "site-a", new_key())
    values = tensors(1)
    update = update_file(bench.folder / "update", values)
    upload = bench.announce("site-a", bench.open(), update)
    bench.send(upload, update.read_bytes())
    enrolment.revoke(bench.federation, "site-a")
    with pytest.raises(Refused) as caught:
        uploads.conclude(bench.federation, "site-a", upload.id)
    assert caught.value.problem.type == "certificate-revoked"
    kept = uploads.find(bench.federation, "site-a", upload.id)
    assert (kept.state, kept.receipt) == ("receiving", None)
    _enrol(bench, "site-a", new_key())  # who is invited anew goes on where it was
    uploads.Part(bench.federation, kept, kept.size).close()
    assert uploads.conclude(bench.federation, "site-a", upload.id).receipt


def test_whoever_knows_no_secret_does_not_wait_for_writers(bench) -> None:
    with bench.federation.database.writing(), pytest.raises(Refused) as caught:
        enrolment.enrol(bench.federation, "site-a", "a guess", REQUEST)
    assert caught.value.problem.type == "invitation-wrong"


def test_standings(bench) -> None:
    def status() -> dict[str, str]:
        return {one.site: one.status for one in enrolment.standings(bench.federation)}

    enrolment.invite(bench.federation, "invited", timedelta(hours=1), bench.federation.url)
    _enrol(bench, "enrolled", new_key())
    _enrol(bench, "revoked", new_key())
    enrolment.revoke(bench.federation, "revoked")
    assert status() == {"invited": "invited", "enrolled": "enrolled", "revoked": "revoked"}
    enrolment.invite(bench.federation, "revoked", timedelta(hours=1), bench.federation.url)
    assert status()["revoked"] == "invited", "a revoked site can be invited anew"
    bench.clock.pass_by(days=91)
    assert status() == {"invited": "expired", "enrolled": "expired", "revoked": "revoked"}


def test_blobs_leave_no_half_file(tmp_path: Path) -> None:
    def breaks():
        yield b"half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        FolderBlobs(tmp_path).add(breaks())
    assert list(tmp_path.iterdir()) == []
    sha256, size = FolderBlobs(tmp_path).add([b"a", b"bc"])
    assert (size, [path.name for path in tmp_path.iterdir()]) == (3, [sha256])


def test_writers_take_turns_and_readers_do_not_wait(bench) -> None:
    with bench.federation.database.writing() as writer:
        row = writer.get(FederationRow, bench.federation.name)
        row.url = "https://elsewhere:1"
        writer.flush()
        with bench.federation.database.reading() as reader:
            assert reader.get(FederationRow, bench.federation.name).url == "https://localhost:8443"
    with bench.federation.database.reading() as reader:
        found = reader.get(FederationRow, bench.federation.name)
        assert found.url == "https://elsewhere:1"
        assert found.created.tzinfo is not None


def _no_space(_path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _enrol(bench, site: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    invitation = enrolment.invite(bench.federation, site, timedelta(hours=1), bench.federation.url)
    request = signing_request(key, site).public_bytes(Encoding.DER)
    return enrolment.enrol(bench.federation, site, invitation.secret, request)
