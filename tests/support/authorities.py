"""Certificate authorities as a consortium has them: an intermediate below a policy authority below a root."""

import functools
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from fedsite.server.authority.authority import Authority, unencrypted_pem
from fedsite.wire.enrolment import new_key, to_pem
from fedsite.wire.messages import utc_now

FEDERATION = "test-federation"


def name(common_name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A Consortium")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certificate_of(
    subject: str,
    key: CertificatePublicKeyTypes,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: tuple[x509.ExtensionType, ...] = (x509.BasicConstraints(True, None),),
    start: datetime | None = None,
    days: float = 900,
    identified: bool = True,
) -> x509.Certificate:
    """An authority's certificate. It says no more than is asked for, but for its key's identifier."""
    start = start or utc_now() - timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject)).issuer_name(name(issuer)).public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start).not_valid_after(start + timedelta(days=days))
    )  # fmt: skip
    for extension in (*extensions, *([x509.SubjectKeyIdentifier.from_public_key(key)] if identified else [])):
        critical = isinstance(extension, x509.BasicConstraints | x509.UnrecognizedExtension)
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


@functools.cache
def consortium() -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey, list[x509.Certificate]]:
    """The keys of a root and of a policy authority below it, and their certificates: policy authority first."""
    root, policy = new_key(), ec.generate_private_key(ec.SECP384R1())
    top = certificate_of("root", root.public_key(), "root", root, days=3650)
    middle = certificate_of("policy", policy.public_key(), "root", root, (x509.BasicConstraints(True, 1),), days=1800)
    return root, policy, [middle, top]


def chain_of_three(**changes: object) -> Authority:
    """A new issuing authority of the consortium; `changes` are those of `certificate_of`."""
    _, policy, above = consortium()
    key = new_key()
    given: dict = {"extensions": (x509.BasicConstraints(True, 0),)}
    issuing = certificate_of("issuing", key.public_key(), "policy", policy, **(given | changes))
    return Authority.of(FEDERATION, key, [issuing, *above])


def write(folder: Path, authority: Authority) -> tuple[Path, Path]:
    """Key and chain as files, as a coordinator gets them."""
    folder.mkdir(parents=True, exist_ok=True)
    key, chain = folder / "issuing.key", folder / "issuing.pem"
    key.touch(mode=0o600)
    key.write_bytes(unencrypted_pem(authority.key))
    chain.write_bytes(to_pem(list(authority.chain)))
    return key, chain
