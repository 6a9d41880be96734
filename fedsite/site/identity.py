"""Who this site is: its encrypted private key, its certificate, and what it pinned about the federation.

identity/key.pem          PKCS#8, encrypted, 0600          identity/site.pem         the certificate
identity/passphrase       256 random bits, 0600            identity/ca.pem           the federation's CA, pinned
identity/pseudonyms.key   256 random bits, 0600            identity/federation.json  server, names, signing keys
"""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedsite.errors import NotAuthorised, RecordsDamaged
from fedsite.files import PRIVATE_FILE, write_atomically
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.site.secrets import create_secret, read_secret

_KEY = re.compile(r"[0-9a-f]{64}")
_ENROL = "Enrol this site with: fedsite enroll --invitation FILE"


@dataclass(frozen=True)
class IdentityFiles:
    """Where the parts of an identity lie."""

    folder: Path

    @property
    def key(self) -> Path:
        """The encrypted private key."""
        return self.folder / "key.pem"

    @property
    def passphrase(self) -> Path:
        """What decrypts it."""
        return self.folder / "passphrase"

    @property
    def certificate(self) -> Path:
        """The site's certificate."""
        return self.folder / "site.pem"

    @property
    def authority(self) -> Path:
        """The federation's CA certificate."""
        return self.folder / "ca.pem"

    @property
    def federation(self) -> Path:
        """What was pinned when the site enrolled."""
        return self.folder / "federation.json"

    @property
    def pseudonyms(self) -> Path:
        """The key of the pseudonyms. It is made by `fedsite init` and must outlive every certificate."""
        return self.folder / "pseudonyms.key"


@dataclass(frozen=True)
class Pinned:
    """What the site holds the federation to: names, signing keys (raw Ed25519, hexadecimal), agreement."""

    server: str
    site: str
    federation: str
    plan_keys: tuple[str, ...]
    plan_threshold: int
    agreement_sha256: str
    agreement_accepted_by: str = ""
    agreement_accepted_at: str = ""
    agreement_expires: str = ""  # ISO 8601, with its offset


@dataclass(frozen=True)
class Certificate:
    """The facts of a certificate that people ask for."""

    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime | None = None) -> float:
        """Days until it expires; negative afterwards."""
        return (self.not_after - (now or datetime.now(UTC))).total_seconds() / 86_400


def pin(files: IdentityFiles, pinned: Pinned) -> None:
    """Writes what was pinned."""
    write_atomically(files.federation, json.dumps(asdict(pinned), indent=1).encode(), PRIVATE_FILE)


def pinned(files: IdentityFiles) -> Pinned:
    """What was pinned. Raises NotAuthorised before enrolment, RecordsDamaged when it cannot be read."""
    if not files.federation.is_file():
        raise NotAuthorised("This site is not enrolled.", _ENROL)
    try:
        fields = json.loads(files.federation.read_bytes())
        found = Pinned(**{**fields, "plan_keys": tuple(fields["plan_keys"])})
        if type(found.plan_threshold) is not int or not all(_KEY.fullmatch(key) for key in found.plan_keys):
            raise ValueError("not signing keys")
        if found.agreement_expires and datetime.fromisoformat(found.agreement_expires).tzinfo is None:
            raise ValueError("an end of the agreement that could be anywhere")
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise RecordsDamaged("identity/federation.json is damaged.", "Restore it, or enrol anew.") from error


def certificate(files: IdentityFiles) -> Certificate:
    """Reads the site's certificate. Raises NotAuthorised before enrolment, RecordsDamaged when it is none."""
    if not files.certificate.is_file():
        raise NotAuthorised("This site has no certificate.", _ENROL)
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    except ValueError as error:
        raise RecordsDamaged("identity/site.pem is no certificate.", "Restore it, or enrol anew.") from error
    return Certificate(
        found.subject.rfc4514_string(),
        found.issuer.rfc4514_string(),
        f"{found.serial_number:x}",
        found.not_valid_before_utc,
        found.not_valid_after_utc,
    )


def authority_sha256(files: IdentityFiles) -> str:
    """The SHA-256 of the pinned CA's certificate (DER). Raises RecordsDamaged when it is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    except ValueError as error:
        raise RecordsDamaged("identity/ca.pem is no certificate.", "Restore it, or enrol anew.") from error
    return authority.fingerprint(hashes.SHA256()).hex()


def create_pseudonyms(files: IdentityFiles) -> None:
    """Makes the pseudonyms' key, once."""
    create_secret(files.pseudonyms)


def pseudonyms(files: IdentityFiles) -> Pseudonyms:
    """The site's pseudonyms. Raises NotAuthorised before `fedsite init`."""
    return Pseudonyms(bytes.fromhex(read_secret(files.pseudonyms).decode()))
