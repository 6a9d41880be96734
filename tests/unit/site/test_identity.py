"""Identity on disk, secrets, pseudonyms."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsite.errors import CannotWrite, NotAuthorised, RecordsDamaged
from fedsite.site import identity
from fedsite.site.identity import IdentityFiles, Pinned
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.site.secrets import create_secret, read_secret

PINNED = Pinned("https://server:8443", "north", "strokes", ("a" * 64, "b" * 64), 2, "c" * 64)
KEY = bytes(range(32))


@pytest.fixture
def files(tmp_path: Path) -> IdentityFiles:
    return IdentityFiles(tmp_path)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_a_secret_is_random_private_and_kept(tmp_path: Path) -> None:
    one, other = create_secret(tmp_path / "one"), create_secret(tmp_path / "other")
    assert len(bytes.fromhex(one.decode())) == 32
    assert one != other
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    assert create_secret(tmp_path / "one") == one == read_secret(tmp_path / "one")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_secret_that_others_could_read_is_refused(tmp_path: Path, mode: int) -> None:
    create_secret(tmp_path / "one")
    (tmp_path / "one").chmod(mode)
    for use in (read_secret, create_secret):
        with pytest.raises(RecordsDamaged, match="can be read by others") as refused:
            use(tmp_path / "one")
        assert f"chmod 600 {tmp_path / 'one'}" in refused.value.mend


def test_another_users_secret_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_secret(tmp_path / "one")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RecordsDamaged, match="belongs to another user"):
        read_secret(tmp_path / "one")


def test_a_link_is_no_secret(tmp_path: Path) -> None:
    create_secret(tmp_path / "one")
    (tmp_path / "link").symlink_to("one")
    with pytest.raises(RecordsDamaged):
        read_secret(tmp_path / "link")


@pytest.mark.parametrize("content", [b"", b"short", b"z" * 64, b"a" * 63, b"a" * 65, b"A" * 64, b"\xff" * 64])
def test_what_is_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(RecordsDamaged, match="not a secret") as refused:
        read_secret(path)
    assert content.decode(errors="replace") not in str(refused.value) or not content


def test_an_absent_secret_asks_for_enrolment(tmp_path: Path) -> None:
    with pytest.raises(NotAuthorised, match="fedsite enroll"):
        read_secret(tmp_path / "absent")
    with pytest.raises(CannotWrite):
        create_secret(tmp_path / "no folder" / "one")


# --- what was pinned ------------------------------------------------------------------------------------------------


def test_what_is_pinned_is_read_back(files: IdentityFiles) -> None:
    identity.pin(files, PINNED)
    assert identity.pinned(files) == PINNED
    assert files.federation.stat().st_mode & 0o777 == 0o600


def test_before_enrolment_everything_says_so(files: IdentityFiles) -> None:
    for use in (identity.pinned, identity.certificate, identity.pseudonyms):
        with pytest.raises(NotAuthorised):
            use(files)


def _changed(**fields: object) -> bytes:
    identity_fields = {name: getattr(PINNED, name) for name in PINNED.__dataclass_fields__}
    return json.dumps(identity_fields | fields).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xff",
        _changed(unknown=1),
        _changed(plan_keys=None),
        _changed(plan_keys=["x"]),
        _changed(plan_keys=[1]),
        _changed(plan_threshold="2"),
        _changed(plan_threshold=None),
    ],
)
def test_damage_to_what_was_pinned_is_named(files: IdentityFiles, content: bytes) -> None:
    files.federation.write_bytes(content)
    with pytest.raises(RecordsDamaged, match=r"federation\.json is damaged"):
        identity.pinned(files)


# --- certificates ---------------------------------------------------------------------------------------------------


def test_a_certificates_facts(files: IdentityFiles) -> None:
    end = datetime.now(UTC) + timedelta(days=30)
    authority = trustme.CA()
    leaf = authority.issue_cert("north.example", not_after=end.replace(tzinfo=None))
    files.certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
    files.authority.write_bytes(authority.cert_pem.bytes())
    found = identity.certificate(files)
    assert found.days_left() == pytest.approx(30, abs=0.01)
    assert found.days_left(end + timedelta(days=2)) == pytest.approx(-2, abs=0.01)
    expected = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).fingerprint(hashes.SHA256()).hex()
    assert identity.authority_sha256(files) == expected


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\0"])
def test_what_is_no_certificate_is_named(files: IdentityFiles, content: bytes) -> None:
    files.certificate.write_bytes(content)
    files.authority.write_bytes(content)
    with pytest.raises(RecordsDamaged, match=r"site\.pem"):
        identity.certificate(files)
    with pytest.raises(RecordsDamaged, match=r"ca\.pem"):
        identity.authority_sha256(files)


# --- pseudonyms -----------------------------------------------------------------------------------------------------


def test_pseudonyms_outlive_everything(files: IdentityFiles) -> None:
    identity.create_pseudonyms(files)
    before = identity.pseudonyms(files).patient("4711", "HOSPITAL")
    identity.create_pseudonyms(files)
    assert identity.pseudonyms(files).patient("4711", "HOSPITAL") == before


def test_pseudonyms_are_stable_keyed_and_of_their_kind() -> None:
    names = Pseudonyms(KEY)
    made = [names.patient("1"), names.study("1"), names.series("1"), names.path("1"), names.series("1", "b0")]
    assert [name[:2] for name in made] == ["p-", "e-", "s-", "f-", "s-"]
    assert all(len(name) == 18 and name[2:].isalnum() and name == name.lower() for name in made)
    assert len({name[2:] for name in made}) == 5
    assert names.patient("1") == Pseudonyms(KEY).patient("1")
    # A known answer: whoever changes the recipe renames every patient of every site.
    assert names.patient("4711", "HOSPITAL") == "p-i262wlcyenlcly55"
    other = Pseudonyms(bytes(32))
    assert {name[2:] for name in made}.isdisjoint({other.patient("1")[2:], other.study("1")[2:]})
    assert KEY.hex() not in repr(names)
    assert repr(KEY) not in repr(names)


_parts = st.text(max_size=6, alphabet=st.sampled_from("0123:;\x00aé "))


@given(one=st.tuples(_parts, _parts), other=st.tuples(_parts, _parts))
def test_no_two_lists_of_parts_share_a_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    names = Pseudonyms(KEY)
    assert (names.patient(*one) == names.patient(*other)) == (one == other)
    assert (names.series(*one) == names.series(*other)) == (one == other)


def test_the_boundary_between_parts_counts() -> None:
    names = Pseudonyms(KEY)
    tricky = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("1:a", ""), ("1", ":a"), ("2:ab1:c", "")]
    assert len({names.patient(*parts) for parts in tricky}) == len(tricky)


def test_the_split_is_uniform_and_keyed() -> None:
    one, other = Pseudonyms(KEY), Pseudonyms(bytes(32))
    patients = [one.patient(str(number)) for number in range(20_000)]
    fractions = [one.fraction(patient) for patient in patients]
    assert all(0 <= value < 1 for value in fractions)
    counts = [0] * 20
    for value in fractions:
        counts[int(value * 20)] += 1
    assert stats.chisquare(counts).pvalue > 1e-6
    assert fractions[:100] == [one.fraction(patient) for patient in patients[:100]]
    agreeing = sum((one.fraction(patient) < 0.2) == (other.fraction(patient) < 0.2) for patient in patients)
    assert agreeing / len(patients) == pytest.approx(0.2**2 + 0.8**2, abs=0.02)
