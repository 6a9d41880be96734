"""The federation's certificate authority: one self-signed root (P-256), leaf certificates of 90 days (RFC 5280).

Whoever asks brings a public key and nothing else that counts: subject, names and uses are written here.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=90)
ROOT_LIFETIME = timedelta(days=3650)
BACKDATED = timedelta(minutes=5)
"""Certificates begin a little early: the clocks of sites and server differ."""


@dataclass(frozen=True)
class Authority:
    """The root and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, federation: str, now: datetime) -> "Authority":
        """A new root for a federation."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(federation, f"{federation} root")
        builder = (
            _builder(name, name, key.public_key(), now, ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def federation(self) -> str:
        """The federation's name, from the root's subject."""
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)

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
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _builder(subject, self.certificate.subject, key, now, LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer_key, critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())


def unencrypted_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A server-side key as PKCS#8 PEM: protected by its file's owner and mode, as daemons' keys are."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(federation: str, common_name: str) -> x509.Name:
    """The common name is cut to X.520's 64 characters; sites' names are shorter, hosts count by their SAN."""
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation)
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


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
