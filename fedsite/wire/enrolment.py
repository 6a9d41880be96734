"""Enrolment over Secure Transport (EST, RFC 7030): invitation, key, request and certificates, for both sides.

The invitation makes the first contact trustworthy in both directions: its fingerprint tells the site the right CA,
its secret tells the server the right site. The key is made where it is used and never travels; the request carries
only its public half, and the server alone decides the names in the certificate.
"""

import base64
import binascii
import hashlib
import re
import secrets
import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from fedsite.errors import RecordsDamaged, ServerBrokeProtocol, TryAgainLater, UsageError
from fedsite.wire.messages import Closed, MalformedMessage, Name, Sha256, parse
from fedsite.wire.route import Proxy
from fedsite.wire.transport import (
    Answer,
    Connection,
    Patience,
    TlsIdentity,
    Witness,
    ask,
    nobody,
    open_http,
    retry_after,
    trusting,
)

EST = "/.well-known/est"
PKCS10_TYPE = "application/pkcs10"
PKCS7_TYPE = "application/pkcs7-mime; smime-type=certs-only"
MAX_REQUEST_BYTES = 16 << 10
MAX_CERTIFICATES = 16

_LINE = re.compile(r"fedsite-invitation-1\.([A-Za-z0-9_-]{1,2000})\.([0-9a-f]{8})")
_COPY_AGAIN = "Copy the whole line that `fedsite server invite` printed, from fedsite-invitation to its end."


class _Content(Closed):
    """What an invitation's line encodes."""

    server: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.:\[\]_-]+$", max_length=300)]
    site: Name
    secret: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,86}$")]
    ca_sha256: Sha256


@dataclass(frozen=True)
class Invitation:
    """One site's way in: where the server is, who the site will be, a one-time secret, the CA's SHA-256 (DER)."""

    server: str
    site: str
    secret: str = field(repr=False)
    ca_sha256: str

    def encode(self) -> str:
        """One line that survives mail and terminals; its last eight digits betray a torn copy.

        Raises UsageError when the address or the site's name cannot stand in one.
        """
        try:
            content = _Content(server=self.server, site=self.site, secret=self.secret, ca_sha256=self.ca_sha256)
        except ValidationError as error:
            place = error.errors(include_input=False, include_url=False)[0]["loc"][0]
            raise UsageError(
                f"An invitation cannot hold this {place}.",
                "An address is https://HOST:PORT; a site's name is lower-case letters, digits, dots and dashes.",
            ) from None
        body = base64.urlsafe_b64encode(content.to_bytes()).decode().rstrip("=")
        return f"fedsite-invitation-1.{body}.{_checksum(body)}"

    @classmethod
    def decode(cls, line: str) -> "Invitation":
        """Reads an invitation; raises UsageError when the line is not exactly one."""
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise UsageError("This is no invitation.", _COPY_AGAIN)
        body, checksum = found.groups()
        if checksum != _checksum(body):
            raise UsageError("This invitation is not as it was printed: a part is missing or changed.", _COPY_AGAIN)
        try:
            content = parse(_Content, base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
        except (MalformedMessage, binascii.Error) as error:
            raise UsageError(
                f"This invitation cannot be used: {error}.", "Ask the coordinator for a new one."
            ) from None
        return cls(content.server, content.site, content.secret, content.ca_sha256)


def new_secret() -> str:
    """A one-time secret of 256 bits."""
    return secrets.token_urlsafe(32)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key on the curve P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey, passphrase: str) -> bytes:
    """The key as encrypted PKCS#8 PEM."""
    encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def key_from_pem(pem: bytes, passphrase: str) -> ec.EllipticCurvePrivateKey:
    """Reads what `key_to_pem` wrote; raises RecordsDamaged when passphrase or file are wrong."""
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode())
    except (ValueError, TypeError) as error:
        raise RecordsDamaged("This site's private key cannot be opened with its passphrase.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RecordsDamaged("This site's private key is not of the kind that fedsite makes.")
    return key


def signing_request(key: ec.EllipticCurvePrivateKey, site: str) -> x509.CertificateSigningRequest:
    """A PKCS#10 request (RFC 2986) that proves possession of the key; the name in it is only a courtesy."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


def renewal_request(key: ec.EllipticCurvePrivateKey, present: x509.Certificate) -> x509.CertificateSigningRequest:
    """A PKCS#10 request for the certificate after `present`: EST wants its very names in it (RFC 7030, 4.2.2)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(present.subject)
    for extension in present.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256())


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate's DER as 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def spki_sha256(key: CertificatePublicKeyTypes) -> str:
    """The SHA-256 of a public key's SubjectPublicKeyInfo: the name of a key, whatever certificate it is in."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def to_pem(certificates: list[x509.Certificate]) -> bytes:
    """Certificates as concatenated PEM."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def encode_certificates(certificates: list[x509.Certificate]) -> bytes:
    """A certs-only PKCS#7 in base64, as EST answers (RFC 7030, 4.1.3)."""
    return base64.encodebytes(pkcs7.serialize_certificates(certificates, serialization.Encoding.DER))


def decode_certificates(content: bytes) -> list[x509.Certificate]:
    """Reads what `encode_certificates` wrote; raises MalformedMessage on anything else."""
    try:
        der = base64.b64decode(b"".join(content.split()), validate=True)
        with warnings.catch_warnings(action="error"):  # what is no DER would be tried as BER, with a warning
            certificates = pkcs7.load_der_pkcs7_certificates(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, UserWarning):
        raise MalformedMessage("no certs-only PKCS#7 in base64") from None
    if len(certificates) > MAX_CERTIFICATES:
        raise MalformedMessage(f"{len(certificates)} certificates are more than {MAX_CERTIFICATES}")
    return certificates


def path_from(first: x509.Certificate, others: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """A certificate, the one that signed it, and so on, all but the first out of `others`; a self-signed one ends it.

    Names and signatures count here (RFC 5280, 6.1.3 a 1 and 4); what an authority may do is TLS's business.
    """
    path, left = [first], list(others)
    while not signed_by(path[-1], path[-1]):
        issuer = next((one for one in left if signed_by(path[-1], one)), None)
        if issuer is None:
            break
        path.append(issuer)
        left.remove(issuer)
    return path


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True when the certificate names this issuer and has its signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def own_chain(certificates: Sequence[x509.Certificate], key: CertificatePublicKeyTypes, ca_pem: bytes) -> bytes:
    """What a site shows (PEM): the certificate for its key, then the intermediates; the root, last, is left out.

    Raises ValueError when there is not one certificate for the key, or when it does not lead to the pinned root.
    """
    root, mine = x509.load_pem_x509_certificate(ca_pem), spki_sha256(key)
    try:
        own = {one for one in certificates if spki_sha256(one.public_key()) == mine}
    except UnsupportedAlgorithm:
        own = set()
    if len(own) != 1:
        raise ValueError("there is not one certificate for this site's key")
    first = own.pop()
    path = path_from(first, [root, *(one for one in certificates if one not in (first, root))])
    if path[-1] != root:
        raise ValueError("the certificate does not lead to the federation's authority")
    return to_pem(path[:-1])


def fetch_ca(
    server: str,
    ca_sha256: str,
    proxy: Proxy | None = None,
    patience: Patience | None = None,
    witness: Witness = nobody,
) -> bytes:
    """The federation's root certificate (PEM), fetched from an address that cannot be trusted yet.

    Only the fingerprint of the invitation makes it trusted: raises ServerBrokeProtocol when no certificate in the
    answer has it.
    """
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    with open_http(server, unverified, proxy, witness) as http:
        answer = ask(http, "GET", f"{EST}/cacerts", patience or Patience())
    for certificate in _certificates(answer):
        if fingerprint(certificate) == ca_sha256:
            return to_pem([certificate])
    raise ServerBrokeProtocol(
        f"The server at {server} does not show the certificate authority that the invitation names.",
        "Another server or a proxy may answer there. Compare with `fedsite server init` or ask the coordinator; "
        "nothing was sent.",
    )


def enroll(
    invitation: Invitation,
    ca_pem: bytes,
    key: ec.EllipticCurvePrivateKey,
    proxy: Proxy | None = None,
    patience: Patience | None = None,
    witness: Witness = nobody,
) -> bytes:
    """Asks for the first certificate (PEM, the site's own first). Asking again with the same key gives the same one.

    Raises NotAuthorised when the secret is wrong, expired or spent on another key; TryAgainLater while a person's
    approval is awaited; ServerBrokeProtocol when the answer is no certificate for this key.
    """
    patience = patience or Patience()
    request = signing_request(key, invitation.site)
    with open_http(invitation.server, trusting(ca_pem), proxy, witness) as http:
        answer = _request_certificate(http, "simpleenroll", request, patience, (invitation.site, invitation.secret))
        return _issued(http, answer, ca_pem, key, patience)


def reenroll(
    server: str,
    tls: TlsIdentity,
    key: ec.EllipticCurvePrivateKey,
    proxy: Proxy | None = None,
    patience: Patience | None = None,
    witness: Witness = nobody,
) -> bytes:
    """Asks for the next certificate (PEM) for a new key, shown the present one. Raises as `enroll` does."""
    patience = patience or Patience()
    context = tls.context()
    request = renewal_request(key, x509.load_pem_x509_certificate(tls.certificate.read_bytes()))
    with open_http(server, context, proxy, witness) as http:
        answer = _request_certificate(http, "simplereenroll", request, patience)
        return _issued(http, answer, tls.ca.read_bytes(), key, patience)


def _request_certificate(
    http: Connection,
    route: str,
    request: x509.CertificateSigningRequest,
    patience: Patience,
    auth: tuple[str, str] | None = None,
) -> Answer:
    headers = {"Content-Type": PKCS10_TYPE, "Content-Transfer-Encoding": "base64"}
    content = base64.encodebytes(request.public_bytes(serialization.Encoding.DER))
    return ask(http, "POST", f"{EST}/{route}", patience, headers=headers, content=content, auth=auth)


def _issued(
    http: Connection, answer: Answer, ca_pem: bytes, key: ec.EllipticCurvePrivateKey, patience: Patience
) -> bytes:
    """The certificate of an EST answer and its chain, once they are what was asked for.

    The answer holds the certificate alone (RFC 7030, 4.2.3); whatever lies between it and the root comes by `cacerts`.
    """
    if answer.status == HTTPStatus.ACCEPTED:
        wait = f"{retry_after(answer):.0f} seconds" if retry_after(answer) else "a while"
        raise TryAgainLater(
            f"The coordinator must approve this site first. Its key has the SHA-256 {spki_sha256(key.public_key())}.",
            "Tell the coordinator, who will see the same number in `fedsite server site list`, by telephone. "
            f"Then run the same command again, in {wait} at the earliest.",
        )
    certificates = _certificates(answer) + _certificates(ask(http, "GET", f"{EST}/cacerts", patience))
    try:
        return own_chain(certificates, key.public_key(), ca_pem)
    except ValueError as error:
        raise ServerBrokeProtocol(
            f"The server's certificate for this site cannot be used: {error}.", "Tell the coordinator."
        ) from None


def _certificates(answer: Answer) -> list[x509.Certificate]:
    try:
        return decode_certificates(answer.body)
    except MalformedMessage as error:
        raise ServerBrokeProtocol(
            f"The server's enrolment answer is broken: {error}.", "Tell the coordinator."
        ) from None


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:8]
