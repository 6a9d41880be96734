"""One folder is one federation: its keys, its database, its models and what sites have sent.

    FOLDER/               0700
      federation.db       the truth (storage.py), unless
      database.url        says in which PostgreSQL it is (database.py)
      keys/               the authority, the server's certificate, and the keys of plans, tickets and receipts (0600)
      models/             global models by SHA-256
      incoming/           updates that are still arriving, by upload
      updates/            updates that have their receipt, until their round is aggregated
      refused/            updates that admission refused, for a person to look at

Several processes share it: the running server and the coordinator's commands.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from fedsite.errors import ConfigurationError, SourceMissing, UsageError
from fedsite.files import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    cannot_write,
    fsync_folder,
    is_private,
    make_folder,
    write_atomically,
)
from fedsite.server.authority import intermediate
from fedsite.server.authority.authority import Authority, unencrypted_pem
from fedsite.server.store.blobs import Blobs, FolderBlobs
from fedsite.server.store.database import BEFORE_MIGRATIONS, Database, postgresql_url, sqlite_url
from fedsite.server.store.storage import REVISION, FederationRow
from fedsite.wire.enrolment import Invitation, new_secret, to_pem
from fedsite.wire.messages import MAX_AGREEMENT, Name, utc_now

DATABASE, DATABASE_URL = "federation.db", "database.url"
FOLDERS = ("keys", "models", "incoming", "updates", "refused")
SIGNING_KEYS = ("plan", "round", "receipt")

_HOST = re.compile(r"[A-Za-z0-9:]([A-Za-z0-9.:-]{0,252})")


@dataclass(frozen=True)
class Federation:
    """An opened folder. `clock` tells the time; tests bring their own."""

    folder: Path
    name: str
    url: str
    hosts: tuple[str, ...]
    agreement: str
    agreement_expires: datetime | None
    approval: bool
    authority: Authority
    plan_key: Ed25519PrivateKey
    round_key: Ed25519PrivateKey
    receipt_key: Ed25519PrivateKey
    database: Database
    models: Blobs
    clock: Callable[[], datetime] = utc_now

    @property
    def server_certificate(self) -> Path:
        """The server's private key, its certificate, and the intermediates that lead to the root (PEM)."""
        return self.folder / "keys" / "server.pem"

    @property
    def ca_certificate(self) -> Path:
        """The authority's chain, its signer first, then the intermediates of before (PEM)."""
        return self.folder / "keys" / "ca.pem"


def init(
    folder: Path,
    name: str,
    hosts: list[str],
    url: str,
    agreement: str,
    now: datetime,
    agreement_expires: datetime | None = None,
    supplied: tuple[Path, Path] | None = None,
    approval: bool = False,
    database: str = "",
) -> None:
    """Makes a federation in a folder that is not there yet or empty: all of it, or nothing.

    Sites take part under the agreement until `agreement_expires`. Certificates are signed by a new root, or
    by the intermediate whose key and chain are `supplied`; with `approval` a person says yes before a site gets its
    first. `database` is the URL of an empty PostgreSQL database, else SQLite's lies in the folder. Raises UsageError
    when there is something in folder or database already, a name cannot stand in a certificate or the agreement has
    ended, CannotWrite when the folder cannot be made, and what `intermediate.read` and `Database` raise.
    """
    _check_names(name, hosts, url, agreement)
    if agreement_expires is not None and (not agreement or agreement_expires <= now):
        raise UsageError("An end of the agreement needs an agreement, and must lie ahead.")
    authority = intermediate.read(name, *supplied, hosts, now) if supplied else Authority.create(name, now)
    row = FederationRow(
        name=name,
        url=url,
        hosts="\n".join(hosts),
        agreement=agreement,
        created=now,
        agreement_expires=agreement_expires,
        approval=approval,
    )
    with new_folder(folder):
        keys = folder / "keys"
        write_atomically(keys / "ca.key", unencrypted_pem(authority.key), PRIVATE_FILE)
        write_atomically(keys / "ca.pem", to_pem(list(authority.chain)), PRIVATE_FILE)
        for one in SIGNING_KEYS:
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_atomically(keys / f"{one}.key", pem, PRIVATE_FILE)
        _issue_server_certificate(folder, authority, hosts, now)
        create_database(folder, database, lambda session: session.add(row))


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """A federation's folder in the making, with its empty folders: it is cleared, or removed, when that fails.

    Raises UsageError when there is something in it already, CannotWrite when it cannot be made.
    """
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty.", "Name a new folder, or an empty one.")
    make_folder(folder, PRIVATE_FOLDER)
    try:
        folder.chmod(PRIVATE_FOLDER)
        for one in FOLDERS:
            (folder / one).mkdir(mode=PRIVATE_FOLDER)
        yield
    except BaseException as error:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed:
            folder.rmdir()
        if isinstance(error, OSError):
            raise cannot_write(folder, error) from error
        raise


def create_database(folder: Path, url: str, fill: Callable[[Session], None]) -> None:
    """Makes and fills the database: PostgreSQL's by URL, else SQLite's. Its name makes the folder a federation."""
    if url:
        where = postgresql_url(url)

        def named(session: Session) -> None:
            """The URL's file goes when the transaction fails; without it nobody would look for what was committed."""
            fill(session)
            session.flush()
            write_atomically(folder / DATABASE_URL, f"{where.render_as_string()}\n".encode(), PRIVATE_FILE)

        database = Database(where)
        database.create(named)
        database.close()
        return
    draft = folder / "federation.new"
    write_sqlite(draft, fill)
    draft.rename(folder / DATABASE)
    fsync_folder(folder)


def write_sqlite(path: Path, fill: Callable[[Session], None]) -> None:
    """Makes and fills one SQLite file, this user's alone."""
    write_atomically(path, b"", PRIVATE_FILE)  # SQLite keeps the mode, for its companions too
    database = Database(sqlite_url(path))
    database.create(fill)
    database.close()


def _check_names(name: str, hosts: list[str], url: str, agreement: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UsageError(
            f"A federation cannot be named {name!r}.", "Use lower-case letters, digits, dots and dashes, at most 63."
        ) from None
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise UsageError(f"{host!r} is no host name and no IP address.")
    if len(agreement) > MAX_AGREEMENT:
        raise UsageError(f"The agreement is longer than {MAX_AGREEMENT} characters.")
    Invitation(url, "any-site", new_secret(), "0" * 64).encode()


def open_federation(folder: Path, clock: Callable[[], datetime] = utc_now) -> Federation:
    """Opens a federation's folder.

    Raises SourceMissing when there is none, ConfigurationError when others could read its keys, when a key is damaged
    or when its database is that of another fedsite, and what `Database` raises.
    """
    database = open_database(folder)
    keys = folder / "keys"
    for path in sorted(keys.iterdir()):
        if not is_private(path):
            raise ConfigurationError(f"{path} is not this user's alone.", f"Run chmod 600 {path} as its owner.")
    check_revision(database.revision(), str(folder))
    with database.reading() as session:
        row = session.scalars(select(FederationRow)).one()
    try:
        plan_key, round_key, receipt_key = (_signing_key(keys / f"{one}.key") for one in SIGNING_KEYS)
        authority = _authority(keys, row.name)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"A key in {keys} cannot be read.", "Restore the folder from a backup.") from error
    return Federation(
        folder=folder,
        name=row.name,
        url=row.url,
        hosts=tuple(row.hosts.splitlines()),
        agreement=row.agreement,
        agreement_expires=row.agreement_expires,
        approval=row.approval,
        authority=authority,
        plan_key=plan_key,
        round_key=round_key,
        receipt_key=receipt_key,
        database=database,
        models=FolderBlobs(folder / "models"),
        clock=clock,
    )


def open_database(folder: Path) -> Database:
    """The database of a federation's folder, whatever its revision. Raises SourceMissing when there is none."""
    named = folder / DATABASE_URL
    if named.is_file():
        return Database(postgresql_url(named.read_text(encoding="utf-8").strip()))
    if not (folder / DATABASE).is_file():
        raise SourceMissing(
            f"There is no federation in {folder}.", "Name its folder with --dir, or make one with init."
        )
    return Database(sqlite_url(folder / DATABASE))


def is_older(found: str | None) -> bool:
    """Whether migrations lead from a database to this fedsite's tables."""
    return found is not None and BEFORE_MIGRATIONS < found < REVISION


def check_revision(found: str | None, where: str) -> None:
    """Raises ConfigurationError unless the tables are those of this fedsite."""
    if found == REVISION:
        return
    if found is None:
        raise ConfigurationError(f"The database of {where} holds no federation.", "Restore it from a backup.")
    age, mend = "a newer", "Update fedsite."
    if is_older(found):
        age, mend = "an older", "Stop every server of it, then: fedsite server upgrade."
    elif found == BEFORE_MIGRATIONS:
        age, mend = "an older", "It has no migrations: end its rounds with that one, and make a new federation."
    raise ConfigurationError(f"The database of {where} is {age} fedsite's ({found}, this one's is {REVISION}).", mend)


def renew_server_certificate(federation: Federation) -> bool:
    """Issues the server's next certificate once two thirds of the present one's life are over; True when it did.

    Not when the authority's own end leaves the next one no more days than the present one has.
    """
    present = x509.load_pem_x509_certificate(federation.server_certificate.read_bytes())
    now, ends = federation.clock(), present.not_valid_after_utc
    if ends - now > (ends - present.not_valid_before_utc) / 3 or federation.authority.expiry(now) <= ends:
        return False
    _issue_server_certificate(federation.folder, federation.authority, federation.hosts, now)
    return True


def replace_authority(federation: Federation, key: Path, chain: Path) -> Authority:
    """Puts another intermediate of the same root in the place of the present one; the running server must be restarted.

    At every moment the key that is there has its certificate beside it. Intermediates of before stay among the
    certificates until they end, for sites that show what those have signed and nothing else. Raises UsageError for
    another root, and what `intermediate.read` raises.
    """
    authority = intermediate.read(federation.name, key, chain, federation.hosts, federation.clock())
    if authority.root != federation.authority.root:
        raise UsageError(
            "This chain leads to another root than the one that sites have pinned.",
            "Bring an intermediate of the same root. Another root means a new federation, and new invitations.",
        )
    now, keys = federation.clock(), federation.folder / "keys"
    before = x509.load_pem_x509_certificates(federation.ca_certificate.read_bytes())
    kept = [one for one in before if one not in authority.chain and one.not_valid_after_utc > now]
    write_atomically(federation.ca_certificate, to_pem([*authority.chain, *kept]), PRIVATE_FILE)
    write_atomically(keys / "ca.key", unencrypted_pem(authority.key), PRIVATE_FILE)
    _issue_server_certificate(federation.folder, authority, federation.hosts, now)
    return authority


def _issue_server_certificate(folder: Path, authority: Authority, hosts: Sequence[str], now: datetime) -> None:
    """One file for key and certificates, so that the two can never be of different ages."""
    key = ec.generate_private_key(ec.SECP256R1())
    shown = [authority.issue_server(key.public_key(), hosts, now), *authority.intermediates]
    write_atomically(folder / "keys" / "server.pem", unencrypted_pem(key) + to_pem(shown), PRIVATE_FILE)


def _authority(keys: Path, federation: str) -> Authority:
    key = serialization.load_pem_private_key((keys / "ca.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the authority's key is of another kind")
    return Authority.of(federation, key, x509.load_pem_x509_certificates((keys / "ca.pem").read_bytes()))


def _signing_key(path: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("a signing key is of another kind")
    return key
