"""A new key and certificate for an enrolled site, by itself once two thirds of the present one's lifetime are over.

The present one stays in use until the server has accepted the new one. A run that was cut off leaves the new key, and
the next run asks with it again, so that no answer of the server's is lost.
"""

from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fedsite.errors import (
    ConfigurationError,
    FedsiteError,
    NotAuthorised,
    RecordsDamaged,
    TryAgainLater,
    Unreachable,
    UsageError,
)
from fedsite.files import PRIVATE_FILE, write_atomically
from fedsite.jobs.identity import as_cron
from fedsite.jobs.lock import only_run
from fedsite.jobs.network import proxy_for
from fedsite.jobs.site import Site, client_of, tls_of
from fedsite.site import identity, secrets, versions
from fedsite.site.identity import Certificate, Choice, Version
from fedsite.site.secrets import Place, Storage
from fedsite.wire import enrolment
from fedsite.wire.transport import Patience

HASTE_SECONDS = 1.0
"""How long a renewal that nobody asked for tries: what it delays is the run, and the next run tries again."""
OTHERS_SECONDS = 30.0
IMPORT_AGAIN = "Ask its authority for the next one: fedsite enroll --csr-only FILE, then fedsite enroll --import FILE."


def renew(site: Site, wanted: Storage | None = None) -> Certificate:
    """Renews now, whatever the dates; `wanted` chooses another place for the passphrase of the new key.

    Raises NotAuthorised when the server does not renew, TryAgainLater while another process changes the identity or a
    person's approval is awaited, UsageError for a certificate that was imported, Unreachable, ServerBrokeProtocol.
    """
    with only_run(site.files.folder, OTHERS_SECONDS):
        place = secrets.choose(wanted) if wanted else _next_place(site)
        return _renew(site, place, Patience(site.config.network.patience_seconds))


def renew_if_due(site: Site) -> None:
    """Renews where it is time. A failure is told and audited, no more: the present certificate goes on."""
    if not _is_due(site):
        return
    try:
        with only_run(site.files.folder, OTHERS_SECONDS):
            if _is_due(site):  # or another process has done it meanwhile
                _renew_unasked(site)
    except FedsiteError as error:
        days = identity.certificate(site.files).days_left()
        site.state.audit("renewal failed", message=error.message, days_left=round(days, 1))
        # A server that is away stops the run as well, which then says what to do about it.
        mend = "" if isinstance(error, Unreachable) else f" {error.mend}"
        site.warn(
            f"This site's certificate was to be renewed: {error.message}{mend}\n"
            f"It is good for another {days:.0f} days; every run tries again."
        )


def _is_due(site: Site) -> bool:
    """An expired one is past renewing; what else may be wrong with one is said by whoever shows it to the server."""
    try:
        certificate = identity.certificate(site.files)
    except FedsiteError:
        return False
    return certificate.renewed_from <= datetime.now(UTC) < certificate.not_after


def _renew_unasked(site: Site) -> None:
    waiting = versions.pending(site.files)
    if waiting and waiting.choice.imported:
        raise TryAgainLater(
            "A certificate from another authority was asked for, and is awaited.",
            "Import it: fedsite enroll --import FILE. Or go without it: fedsite identity renew",
        )
    _renew(site, _next_place(site), Patience(HASTE_SECONDS))


def _next_place(site: Site) -> Place:
    return secrets.beside(site.files.current.choice.place)


def _renew(site: Site, place: Place, patience: Patience) -> Certificate:
    pinned, present = site.pinned, site.files.current
    proxy = proxy_for(site.config.network, pinned.server)
    if present.choice.imported:
        raise UsageError("This certificate was imported: the federation's server cannot renew it.", IMPORT_AGAIN)
    tls = tls_of(site.files, present)
    tls.check_dates(datetime.now(UTC))
    version = take_up(site, Choice(place))
    if not version.certificate.is_file():
        chain = enrolment.reenroll(pinned.server, tls, key_of(version), proxy, patience, site.witness)
        write_atomically(version.certificate, chain, PRIVATE_FILE)
    try:
        with client_of(site.files, site.config, pinned.server, site.witness, version) as client:
            client.trust()
    except NotAuthorised:
        versions.remove(version)  # the next attempt begins with another key
        raise
    return put_into_use(site, version, "certificate renewed")


def take_up(site: Site, choice: Choice) -> Version:
    """The version that an earlier attempt has left unfinished, if it was begun with the same choice, else a new one."""
    waiting = versions.pending(site.files)
    if waiting and _is_usable(waiting, choice):
        return waiting
    key = enrolment.new_key()
    version = versions.begin(site.files, choice, lambda passphrase: enrolment.key_to_pem(key, passphrase))
    if choice.place.storage == "keyring":
        _require_unattended(site, version)
    return version


def _is_usable(waiting: Version, choice: Choice) -> bool:
    if (waiting.choice.imported, waiting.choice.place.storage) != (choice.imported, choice.place.storage):
        return False
    try:
        key_of(waiting)
    except (NotAuthorised, RecordsDamaged):  # gone for good; a keyring that is only closed is another matter
        return False
    return True


def _require_unattended(site: Site, version: Version) -> None:
    """A keyring that opens in this session may be closed to cron: it is tried before anything depends on it."""
    found = as_cron.opens(site.files.folder, version.number)
    if found.error is not None:
        versions.remove(version)
        raise ConfigurationError(
            f"The keyring opens in this session, but not where nobody is logged in: {found.error}",
            "Choose --key-storage file or --key-storage credentials (README).",
        )


def key_of(version: Version) -> EllipticCurvePrivateKey:
    """A version's private key. Raises what reading its passphrase raises, RecordsDamaged when it does not fit."""
    return enrolment.key_from_pem(identity.sealed_key(version), version.passphrase())


def put_into_use(site: Site, version: Version, event: str) -> Certificate:
    """Switches to a version that has worked. The audit says so first: a kill may repeat the record, never miss it."""
    found = identity.certificate(version)
    site.state.audit(
        event,
        version=version.number,
        certificate_sha256=found.sha256,
        not_after=found.not_after.isoformat(),
        key_storage=version.choice.place.storage,
    )
    versions.switch(site.files, version)
    return found
