"""An authority that a consortium supplies: judged in words before anything is made of it, and by TLS itself."""

import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.authorities import FEDERATION, certificate_of, chain_of_three, consortium, write
from support.federation import make, write_identity

from fedsite.errors import ConfigurationError, FedsiteError, SourceMissing, UsageError
from fedsite.files import sha256_of
from fedsite.server import federation
from fedsite.server.authority import intermediate
from fedsite.server.authority.authority import Authority, unencrypted_pem
from fedsite.server.authority.context import server_context
from fedsite.wire.enrolment import key_to_pem, new_key, to_pem
from fedsite.wire.messages import utc_now

HOSTS = ["localhost", "127.0.0.1"]


def read(folder: Path, authority: Authority) -> Authority:
    """What fedsite makes of an authority's files."""
    return intermediate.read(FEDERATION, *write(folder, authority), HOSTS, utc_now())


def test_a_chain_of_three_in_any_order(tmp_path: Path) -> None:
    authority = chain_of_three()
    key, chain = write(tmp_path, authority)
    for order in (authority.chain, authority.chain[::-1], (authority.chain[1], *authority.chain)):
        chain.write_bytes(to_pem(list(order)))
        found = intermediate.read(FEDERATION, key, chain, HOSTS, utc_now())
        assert found.chain == authority.chain
        assert found.root == consortium()[2][1]


def test_a_root_of_its_own_and_rsa(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 3072)
    certificate = certificate_of("own", key.public_key(), "own", key, (x509.BasicConstraints(True, 0),))
    found = read(tmp_path, Authority.of(FEDERATION, key, [certificate]))
    assert (found.chain, found.intermediates) == ((certificate,), [])


USAGE = dict.fromkeys(
    "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    " encipher_only decipher_only".split(),
    False,
)
CA = x509.BasicConstraints(True, 0)
UNFIT = {
    "expired": ({"start": utc_now() - timedelta(days=20), "days": 10}, "has expired on"),
    "from tomorrow": ({"start": utc_now() + timedelta(days=1)}, "is valid from"),
    "no basicConstraints": ({"extensions": ()}, "no certificate authority"),
    "a leaf": ({"extensions": (x509.BasicConstraints(False, None),)}, "no certificate authority"),
    "no keyCertSign": ({"extensions": (CA, x509.KeyUsage(**USAGE | {"crl_sign": True}))}, "keyCertSign"),
    "no subjectKeyIdentifier": ({"identified": False}, "subjectKeyIdentifier"),
    "for servers only": (
        {"extensions": (CA, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))},
        "TLS does not accept what CN=issuing,O=A Consortium signs: unsuitable",
    ),
    "for other hosts": (
        {"extensions": (CA, x509.NameConstraints([x509.DNSName("elsewhere.org")], None))},
        "permitted subtree violation",
    ),
    "a critical extension that nobody knows": (
        {"extensions": (CA, x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"))},
        "unhandled critical extension",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_intermediate_that_could_not_sign_is_named(tmp_path: Path, case: str) -> None:
    changes, message = UNFIT[case]
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(tmp_path, chain_of_three(**changes))
    assert "issuing" in caught.value.message


def test_path_length_counts_the_authorities_below(tmp_path: Path) -> None:
    below, (_, policy, above) = chain_of_three(extensions=(x509.BasicConstraints(True, 3),)), consortium()
    key = new_key()
    fourth = certificate_of("fourth", key.public_key(), "issuing", below.key, (x509.BasicConstraints(True, 0),))
    with pytest.raises(ConfigurationError, match=r"CN=policy.* allows 1 authorities below it .* this chain has 2"):
        read(tmp_path, Authority.of(FEDERATION, key, [fourth, below.chain[0], *above]))
    assert policy


def test_an_expired_root_is_named(tmp_path: Path) -> None:
    root, key = new_key(), new_key()
    top = certificate_of("top", root.public_key(), "top", root, start=utc_now() - timedelta(days=9), days=8)
    signer = certificate_of("signer", key.public_key(), "top", root)
    with pytest.raises(ConfigurationError, match=r"CN=top.* has expired"):
        read(tmp_path, Authority.of(FEDERATION, key, [signer, top]))


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    authority = chain_of_three()
    key, chain = write(tmp_path, authority)

    def refused(kind: type[FedsiteError], message: str) -> None:
        with pytest.raises(kind, match=message):
            intermediate.read(FEDERATION, key, chain, HOSTS, utc_now())

    good, whole = key.read_bytes(), chain.read_bytes()
    key.chmod(0o640)
    refused(ConfigurationError, "not this user's alone")
    key.chmod(0o600)
    for content, message in (
        (unencrypted_pem(new_key()), "None of the authority's certificates belongs to its key"),
        (unencrypted_pem(ec.generate_private_key(ec.SECP521R1())), "not of a kind"),
        (unencrypted_pem(rsa.generate_private_key(65537, 2048)), "not of a kind"),
        (unencrypted_pem(ed25519.Ed25519PrivateKey.generate()), "not of a kind"),
        (b"rubbish", "no private key in PEM"),
        (authority.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        ), "is encrypted"),
    ):  # fmt: skip
        key.write_bytes(content)
        refused(ConfigurationError, message)
    key.write_bytes(good)
    for content, message in (
        (to_pem(list(authority.chain[:-1])), r"breaks off: CN=policy,O=A Consortium is signed by none"),
        (to_pem([authority.chain[0], authority.root]), "breaks off: CN=issuing"),
        (to_pem(list(authority.chain[1:])), "belongs to its key"),
        (whole * 6, "more than 16"),
        (b"rubbish", "no certificates in PEM"),
    ):
        chain.write_bytes(content)
        refused(ConfigurationError, message)
    chain.unlink()
    refused(SourceMissing, r"certificates in .* cannot be read")
    key.unlink()
    refused(SourceMissing, r"key in .* cannot be read")


def test_nothing_is_made_of_an_authority_that_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path / "ca", chain_of_three(extensions=()))
    with pytest.raises(ConfigurationError):
        make(tmp_path / "federation", supplied=files)
    assert not (tmp_path / "federation").exists()


def test_the_folder_keeps_its_own_copy(tmp_path: Path) -> None:
    files = write(tmp_path / "ca", chain_of_three())
    made = make(tmp_path / "federation", supplied=files)
    for file in files:
        file.unlink()
    again = federation.open_federation(made.folder)
    assert again.authority.chain == made.authority.chain
    assert len(x509.load_pem_x509_certificates(made.server_certificate.read_bytes())) == 3
    for path in (made.folder / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    authority = chain_of_three(start=utc_now() - timedelta(days=80), days=100)
    made = make(tmp_path / "federation", supplied=write(tmp_path / "ca", authority))
    server = x509.load_pem_x509_certificate(made.server_certificate.read_bytes())
    site = made.authority.issue_site(new_key().public_key(), "site-a", utc_now())
    assert server.not_valid_after_utc == site.not_valid_after_utc == authority.ends == made.authority.ends


def test_the_servers_certificate_is_not_renewed_for_nothing_when_the_authority_ends(bench, tmp_path: Path) -> None:
    authority = chain_of_three(start=utc_now() - timedelta(days=80), days=100)
    made = make(tmp_path / "short", bench.clock, supplied=write(tmp_path / "ca", authority))
    for days in (10, 9):
        bench.clock.pass_by(days=days)
        assert not federation.renew_server_certificate(made)


def test_an_intermediate_is_replaced_by_another_of_its_root(tmp_path: Path) -> None:
    first, second = chain_of_three(), chain_of_three()
    made = make(tmp_path / "federation", supplied=write(tmp_path / "first", first))
    files = write(tmp_path / "second", second)
    assert federation.replace_authority(made, *files).chain == second.chain
    opened = federation.open_federation(made.folder)
    assert (opened.authority.chain, opened.authority.root) == (second.chain, first.root)
    shown = x509.load_pem_x509_certificates(opened.server_certificate.read_bytes())
    assert shown[1:] == list(second.chain[:-1])
    assert first.chain[0] in x509.load_pem_x509_certificates(opened.ca_certificate.read_bytes())


def test_what_the_former_intermediate_has_signed_is_still_taken_even_shown_alone(tmp_path: Path) -> None:
    first, key = chain_of_three(), new_key()
    made = make(tmp_path / "federation", supplied=write(tmp_path / "first", first))
    leaf = to_pem([first.issue_site(key.public_key(), "site-a", utc_now())])
    site = write_identity(tmp_path / "site", leaf, key_to_pem(key, "a passphrase"), to_pem([first.root]))
    federation.replace_authority(made, *write(tmp_path / "second", chain_of_three()))
    server = server_context(made.server_certificate, made.ca_certificate)
    intermediate._shake_hands(server, site.context(), "localhost")

    made.ca_certificate.write_bytes(to_pem(list(federation.open_federation(made.folder).authority.chain)))
    forgetful = server_context(made.server_certificate, made.ca_certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        intermediate._shake_hands(forgetful, site.context(), "localhost")


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_crash_at_any_moment_leaves_one_authority_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    first, second = chain_of_three(), chain_of_three()
    made = make(tmp_path / "federation", supplied=write(tmp_path / "first", first))
    files = write(tmp_path / "second", second)
    write_atomically, paths = federation.write_atomically, []

    def crash(path: Path, content: bytes, mode: int) -> None:
        if len(paths) == written:
            raise RuntimeError
        paths.append(path)
        write_atomically(path, content, mode)

    monkeypatch.setattr(federation, "write_atomically", crash)
    with pytest.raises(RuntimeError):
        federation.replace_authority(made, *files)
    monkeypatch.undo()
    opened = federation.open_federation(made.folder)
    assert opened.authority.chain == (second if written == 2 else first).chain
    assert federation.replace_authority(opened, *files).chain == second.chain


def test_a_key_identifier_of_the_issuers_own_making_is_followed(tmp_path: Path) -> None:
    own = x509.SubjectKeyIdentifier(b"not a digest of anything")
    authority = read(tmp_path, chain_of_three(extensions=(x509.BasicConstraints(True, 0), own), identified=False))
    leaf = authority.issue_site(new_key().public_key(), "site-a", utc_now())
    identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier.key_identifier == own.digest


def test_another_root_is_another_federation(bench, tmp_path: Path) -> None:
    before = sha256_of(bench.federation.ca_certificate)
    with pytest.raises(UsageError, match="another root"):
        federation.replace_authority(bench.federation, *write(tmp_path / "ca", chain_of_three()))
    assert sha256_of(bench.federation.ca_certificate) == before
