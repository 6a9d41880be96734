"""Who this site is: its encrypted private key, its certificate, and what it pinned about the federation.

identity/current            the number of the version in use      identity/ca.pem           the federation's CA, pinned
identity/versions/N/        a private key and its certificate     identity/federation.json  server, names, signing keys
  key.pem                   PKCS#8, encrypted, 0600               identity/pseudonyms.key   256 random bits, 0600
  site.pem                  the certificate and its chain
  choice.json               where the key's passphrase lies
  passphrase                256 random bits, 0600, where it lies in a file

Version 0.1.0 kept one key.pem, site.pem and passphrase in identity/ itself: they are version 0, until the next one.
"""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedsite.errors import NotAuthorised, RecordsDamaged
from fedsite.files import PRIVATE_FILE, write_atomically
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.site.secrets import Place, create_secret, read, read_secret

_KEY = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(rb"[1-9][0-9]{0,8}\n?")
_ANEW = "Restore it from a backup; or: fedsite identity retire, then enrol with a new invitation."
_ENROL = "Enrol this site with: fedsite enroll --invitation FILE"


@dataclass(frozen=True)
class Choice:
    """What was chosen when a version was begun: where its passphrase lies, and whether its certificate is imported."""

    place: Place
    imported: bool = False

    def to_json(self) -> bytes:
        """What choice.json holds."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Choice":
        """Reads it; raises ValueError, TypeError or KeyError on anything else."""
        fields = json.loads(content)
        if type(fields["imported"]) is not bool:
            raise ValueError("imported is true or false")
        return cls(Place(**fields.pop("place")), **fields)


@dataclass(frozen=True)
class Version:
    """One private key, and its certificate once that is there."""

    folder: Path
    number: int

    @property
    def key(self) -> Path:
        """The encrypted private key."""
        return self.folder / "key.pem"

    @property
    def certificate(self) -> Path:
        """The site's certificate, followed by what lies between it and the federation's root."""
        return self.folder / "site.pem"

    @property
    def choice(self) -> Choice:
        """What was chosen for it. Raises RecordsDamaged when that cannot be read."""
        if self.number == 0:
            return Choice(Place("file"))
        try:
            return Choice.from_json((self.folder / "choice.json").read_bytes())
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordsDamaged(
                f"identity/versions/{self.number}/choice.json is damaged: it says where this key's passphrase lies.",
                _ANEW,
            ) from error

    def passphrase(self) -> str:
        """What opens the key, from the place that was chosen. Raises what `secrets.read` does."""
        return read(self.choice.place, self.folder)


@dataclass(frozen=True)
class IdentityFiles:
    """Where the parts of an identity lie."""

    folder: Path

    @property
    def versions(self) -> Path:
        """The folder of the versions."""
        return self.folder / "versions"

    @property
    def pointer(self) -> Path:
        """The file that names the version in use: a file, which every backup keeps, and no link."""
        return self.folder / "current"

    @property
    def current(self) -> Version:
        """The version in use; version 0, which may be nothing at all, before the first. Raises RecordsDamaged."""
        try:
            content = self.pointer.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return self.version(0)
        if not _NUMBER.fullmatch(content):
            raise RecordsDamaged("identity/current names no version.", _ANEW)
        return self.version(int(content))

    def version(self, number: int) -> Version:
        """The version of a number."""
        return Version(self.versions / str(number) if number else self.folder, number)

    @property
    def key(self) -> Path:
        """The encrypted private key in use."""
        return self.current.key

    @property
    def certificate(self) -> Path:
        """The certificate in use."""
        return self.current.certificate

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
    sha256: str
    not_before: datetime
    not_after: datetime

    @property
    def renewed_from(self) -> datetime:
        """When two thirds of its lifetime are over: from then on it is renewed."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3

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


def certificate(files: IdentityFiles | Version) -> Certificate:
    """Reads the certificate in use, or a version's.

    Raises NotAuthorised before enrolment, RecordsDamaged when it is none.
    """
    if not files.certificate.is_file():
        raise NotAuthorised("This site has no certificate.", _ENROL)
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        found = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    except ValueError as error:
        raise RecordsDamaged("identity/site.pem is no certificate.", "Restore it, or enrol anew.") from error
    return Certificate(
        found.subject.rfc4514_string(),
        found.issuer.rfc4514_string(),
        f"{found.serial_number:x}",
        found.fingerprint(hashes.SHA256()).hex(),
        found.not_valid_before_utc,
        found.not_valid_after_utc,
    )


def sealed_key(version: Version) -> bytes:
    """The encrypted private key. Raises NotAuthorised where there is none."""
    try:
        return version.key.read_bytes()
    except FileNotFoundError:
        raise NotAuthorised("This site has no private key.", _ENROL) from None


def authority_sha256(files: IdentityFiles) -> str:
    """The SHA-256 of the pinned CA's certificate (DER). Raises RecordsDamaged when it is none, or gone."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    except (OSError, ValueError) as error:
        raise RecordsDamaged(
            "identity/ca.pem, the federation's authority, is gone or damaged.",
            "Restore it from a backup; or remove it, and enrol with a new invitation: fedsite enroll --invitation FILE",
        ) from error
    return authority.fingerprint(hashes.SHA256()).hex()


def create_pseudonyms(files: IdentityFiles) -> None:
    """Makes the pseudonyms' key, once."""
    create_secret(files.pseudonyms)


def pseudonyms(files: IdentityFiles) -> Pseudonyms:
    """The site's pseudonyms. Raises NotAuthorised before `fedsite init`."""
    return Pseudonyms(bytes.fromhex(read_secret(files.pseudonyms).decode()))
