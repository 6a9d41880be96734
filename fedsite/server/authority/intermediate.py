"""An authority that a consortium supplies: the key of an intermediate, and the chain up to the root.

It is judged before anything is made of it. What people get wrong is named in words; then a server and a site with
certificates of this authority meet in memory, so that the judge of all the rest (name constraints, purposes, weak
digests) is the very library that will judge them later.
"""

import ssl
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fedsite.errors import ConfigurationError, SourceMissing
from fedsite.files import PRIVATE_FILE, is_private, write_atomically
from fedsite.server.authority.authority import STRONG_KEYS, Authority, SigningKey, described, is_strong, unencrypted_pem
from fedsite.wire.enrolment import MAX_CERTIFICATES, new_key, to_pem
from fedsite.wire.transport import trusting

MAX_FILE_BYTES = 1 << 20
FLIGHTS = 8
"""More than any handshake of TLS 1.2 or 1.3 takes."""


def read(federation: str, key: Path, chain: Path, hosts: Sequence[str], now: datetime) -> Authority:
    """The authority of a key (PEM, unencrypted) whose chain (PEM, in any order) leads to a root.

    `hosts` are the names that the server's certificate will bear. Raises SourceMissing when a file is not there,
    ConfigurationError when the key is not its owner's alone, the two do not belong together, or sites and servers
    would not accept what it signs.
    """
    authority = Authority.of(federation, _read_key(key), read_chain(chain))
    for place, certificate in enumerate(authority.chain):
        _judge(certificate, place, now)
    _rehearse(authority, hosts, now)
    return authority


def _read_key(path: Path) -> SigningKey:
    content = _content(path, "key")
    if not is_private(path):
        raise ConfigurationError(
            f"The key {path} is not this user's alone.", f"Run chmod 600 {path} as the user who runs the server."
        )
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError:
        raise ConfigurationError(
            f"The key {path} is encrypted: the server could not use it when it starts unattended.",
            f"Decrypt a copy (umask 077; openssl pkey -in {path} -out PLAIN), use that, and delete it afterwards.",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"{path} holds no private key in PEM.", f"From DER: openssl pkey -inform DER -in {path} -out KEY"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) or not is_strong(key.public_key()):
        raise ConfigurationError(f"The key {path} is not of a kind that may sign here.", f"Use {STRONG_KEYS}.")
    return key


def read_chain(path: Path) -> list[x509.Certificate]:
    """The certificates in a file (PEM), at least one. Raises SourceMissing, ConfigurationError when there are none."""
    content = _content(path, "certificates")
    try:
        certificates = x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion):
        raise ConfigurationError(
            f"{path} holds no certificates in PEM.", f"From DER: openssl x509 -inform DER -in {path} -out CERTIFICATE"
        ) from None
    if len(certificates) > MAX_CERTIFICATES:
        raise ConfigurationError(f"{path} holds more than {MAX_CERTIFICATES} certificates.")
    return certificates


def _content(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise SourceMissing(f"The {what} in {path} cannot be read: {error.strerror}.") from error


def _judge(certificate: x509.Certificate, below: int, now: datetime) -> None:
    """Refuses one certificate of the chain, which has `below` authorities beneath it."""
    name = described(certificate)
    if certificate.not_valid_after_utc <= now:
        raise ConfigurationError(f"{name} has expired on {certificate.not_valid_after_utc}.", "Bring a newer chain.")
    if certificate.not_valid_before_utc > now:
        raise ConfigurationError(
            f"{name} is valid from {certificate.not_valid_before_utc}, but it is {now} here.",
            "Set this machine's clock.",
        )
    try:
        extensions = [one.value for one in certificate.extensions]
    except (ValueError, x509.DuplicateExtension) as error:
        raise ConfigurationError(f"The extensions of {name} cannot be read.") from error
    constraints = [one for one in extensions if isinstance(one, x509.BasicConstraints)]
    if not any(one.ca for one in constraints):
        raise ConfigurationError(
            f"{name} is no certificate authority: its basicConstraints do not say so.",
            "Ask who signed it for a certificate with basicConstraints CA:TRUE.",
        )
    length = constraints[0].path_length
    if length is not None and length < below:
        raise ConfigurationError(
            f"{name} allows {length} authorities below it (pathlen), and this chain has {below}.",
            "Ask for an intermediate that is signed nearer to the root, or for a longer pathlen.",
        )
    if below == 0 and not any(isinstance(one, x509.SubjectKeyIdentifier) for one in extensions):
        raise ConfigurationError(
            f"{name} has no subjectKeyIdentifier: what it signs could not be told from what its successor signs.",
            "Ask who signed it for a certificate with one (RFC 5280, 4.2.1.2).",
        )
    if any(isinstance(one, x509.KeyUsage) and not one.key_cert_sign for one in extensions):
        raise ConfigurationError(f"{name} must not sign certificates: its keyUsage lacks keyCertSign.")


def _rehearse(authority: Authority, hosts: Sequence[str], now: datetime) -> None:
    """Lets a server and a site meet in memory, each with a certificate of this authority."""
    from fedsite.server.authority.context import server_context

    with tempfile.TemporaryDirectory(prefix="fedsite-") as name:
        folder, key = Path(name), new_key()
        roots, server, site = folder / "ca.pem", folder / "server.pem", folder / "site.pem"
        write_atomically(roots, to_pem(list(authority.chain)), PRIVATE_FILE)
        for path, leaf in (
            (server, authority.issue_server(key.public_key(), hosts, now)),
            (site, authority.issue_site(key.public_key(), "rehearsal", now)),
        ):
            write_atomically(path, unencrypted_pem(key) + to_pem([leaf, *authority.intermediates]), PRIVATE_FILE)
        try:
            answering, asking = server_context(server, roots), trusting(to_pem([authority.root]))
            asking.load_cert_chain(site)
            _shake_hands(answering, asking, hosts[0])
        except ssl.SSLError as error:
            reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
            raise ConfigurationError(
                f"TLS does not accept what {described(authority.chain[0])} signs: {reason}.",
                "Show this message to whoever signed the intermediate.",
            ) from error


def _shake_hands(answering: ssl.SSLContext, asking: ssl.SSLContext, host: str) -> None:
    to_server, to_site = ssl.MemoryBIO(), ssl.MemoryBIO()
    site = asking.wrap_bio(to_site, to_server, server_hostname=host)
    server = answering.wrap_bio(to_server, to_site, server_side=True)
    for _ in range(FLIGHTS):
        for side in (site, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
