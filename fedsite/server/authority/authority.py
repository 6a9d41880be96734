"""The federation's certificate authority: a key, and the chain of certificates from it to the root that sites pin.

The key is the root's own, made here, or that of an intermediate whose chain a consortium supplies (RFC 5280); what is
issued is the same. Leaf certificates live for 90 days, or for as long as the whole chain does. Whoever asks brings a
public key and nothing else that counts: subject, names and uses are written here.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedsite.errors import ConfigurationError
from fedsite.wire.enrolment import path_from, signed_by, spki_sha256

LIFETIME = timedelta(days=90)
ROOT_LIFETIME = timedelta(days=3650)
BACKDATED = timedelta(minutes=5)
"""Certificates begin a little early: the clocks of sites and server differ."""

CURVES = ("secp256r1", "secp384r1")
RSA_BITS = range(3072, 8193)
STRONG_KEYS = f"EC P-256 or P-384, or RSA of {RSA_BITS[0]} to {RSA_BITS[-1]} bits"

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Authority:
    """What signs for a federation. `chain` begins with the certificate of `key` and ends with the root."""

    federation: str
    key: SigningKey
    chain: tuple[x509.Certificate, ...]

    @classmethod
    def create(cls, federation: str, now: datetime) -> "Authority":
        """A new root for a federation."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(federation, f"{federation} root")
        builder = (
            _builder(name, name, key.public_key(), now, now + ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
        )
        return cls(federation, key, (builder.sign(key, hashes.SHA256()),))

    @classmethod
    def of(cls, federation: str, key: SigningKey, certificates: Sequence[x509.Certificate]) -> "Authority":
        """The authority of a key whose chain is among `certificates`, in any order.

        Raises ConfigurationError when none of them is the key's, or when they do not lead to a self-signed root.
        """
        try:
            own = [one for one in certificates if spki_sha256(one.public_key()) == spki_sha256(key.public_key())]
        except (ValueError, UnsupportedAlgorithm):
            own = []
        if not own:
            raise ConfigurationError(
                "None of the authority's certificates belongs to its key.",
                "Bring the key and the chain of one authority.",
            )
        chain = path_from(own[0], [one for one in certificates if one not in own])
        if not signed_by(chain[-1], chain[-1]):
            raise ConfigurationError(
                f"The authority's chain breaks off: {described(chain[-1])} is signed by none of its certificates.",
                "Put every certificate up to the self-signed root into the chain.",
            )
        return cls(federation, key, tuple(chain))

    @property
    def root(self) -> x509.Certificate:
        """What sites pin."""
        return self.chain[-1]

    @property
    def intermediates(self) -> list[x509.Certificate]:
        """What whoever shows a certificate of this authority shows beside it; none for a root's own key."""
        return list(self.chain[:-1])

    @property
    def ends(self) -> datetime:
        """When the first certificate of the chain ends: no leaf outlives it."""
        return min(one.not_valid_after_utc for one in self.chain)

    def expiry(self, now: datetime) -> datetime:
        """When a certificate that is issued now will end."""
        return min(now.replace(microsecond=0) + LIFETIME, self.ends)

    def issue_site(self, key: CertificatePublicKeyTypes, site: str, now: datetime) -> x509.Certificate:
        """A client certificate for a site."""
        name = x509.UniformResourceIdentifier(f"urn:fedsite:site:{site}")
        return self._issue(key, site, [name], ExtendedKeyUsageOID.CLIENT_AUTH, now)

    def issue_server(self, key: CertificatePublicKeyTypes, hosts: Sequence[str], now: datetime) -> x509.Certificate:
        """A server certificate for host names and IP addresses."""
        return self._issue(key, hosts[0], [_host(host) for host in hosts], ExtendedKeyUsageOID.SERVER_AUTH, now)

    def _issue(
        self,
        key: CertificatePublicKeyTypes,
        common_name: str,
        names: list[x509.GeneralName],
        use: x509.ObjectIdentifier,
        now: datetime,
    ) -> x509.Certificate:
        subject = _name(self.federation, common_name)
        builder = (
            _builder(subject, self.chain[0].subject, key, now, self.expiry(now))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_key_identifier(self.chain[0]), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())


def is_strong(key: object) -> bool:
    """True for the kinds of public keys that get a certificate, and that may sign one."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size in RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES


def why_unfit(certificate: x509.Certificate, now: datetime) -> str:
    """Why another authority's certificate cannot be a site's, as a clause; empty when it can."""
    try:
        key = certificate.public_key()
        extensions = [one.value for one in certificate.extensions]
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
        return "it cannot be read"
    if not is_strong(key):
        return f"its key must be {STRONG_KEYS}"
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return f"it is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}"
    if any(isinstance(one, x509.BasicConstraints) and one.ca for one in extensions):
        return "it is an authority's"
    uses = [set(one) for one in extensions if isinstance(one, x509.ExtendedKeyUsage)]
    if any(not one & {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} for one in uses):
        return "its extended key usage lacks clientAuth"
    return ""


def described(certificate: x509.Certificate) -> str:
    """A certificate's name as a person may read it."""
    return "".join(sign if sign.isprintable() else "?" for sign in certificate.subject.rfc4514_string())


def unencrypted_pem(key: SigningKey) -> bytes:
    """A server-side key as PKCS#8 PEM: protected by its file's owner and mode, as daemons' keys are."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, now: datetime, expires: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(federation: str, common_name: str) -> x509.Name:
    """The common name is cut to X.520's 64 characters; sites' names are shorter, hosts count by their SAN."""
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation)
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The issuer's own name for its key, by whatever method it was made: verifiers compare the two."""
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
