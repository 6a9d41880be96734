"""What `fedsite check` says of this site's certificate and key."""

from datetime import UTC, datetime
from pathlib import Path

from fedsite.errors import NotAuthorised
from fedsite.jobs.checks.findings import Check
from fedsite.jobs.identity import as_cron
from fedsite.jobs.identity.renew import IMPORT_AGAIN
from fedsite.jobs.site import Site
from fedsite.site import identity
from fedsite.wire.transport import ENROL_AGAIN


def certificate(site: Site) -> Check:
    """How long the certificate lasts, once it has been renewed where that is due."""
    version = site.version
    found = identity.certificate(version)
    days, imported = found.days_left(), version.choice.imported
    if days <= 0:
        raise NotAuthorised("This site's certificate has expired.", IMPORT_AGAIN if imported else ENROL_AGAIN)
    if datetime.now(UTC) >= found.renewed_from:
        mend = IMPORT_AGAIN if imported else "What is in the way is told by: fedsite identity renew"
        message = f"The certificate ends in {days:.0f} days, and should have been renewed."
        return Check("certificate", "warning", message, mend)
    renewal = f"{'is to be' if imported else 'will be'} renewed from {found.renewed_from:%Y-%m-%d} on"
    return Check("certificate", "ok", f"The certificate is good for {days:.0f} days; it {renewal}.")


def key(site: Site) -> Check:
    """Whether the key opens, and fits the certificate."""
    with site.client():
        place = site.version.choice.place
        return Check("key", "ok", f"The private key opens; its passphrase lies in: {place.storage}.")


def key_as_cron(config_path: Path | None) -> Check:
    """Whether it opens without environment, terminal, standard input or person, in two seconds."""
    return _as_cron(as_cron.opens(config_path))


def key_unattended(site: Site) -> Check:
    """The same of the key in use, wherever the configuration lies."""
    return _as_cron(as_cron.opens(site.files.folder, site.version.number))


def _as_cron(found: as_cron.Answer) -> Check:
    if found.error is not None:
        return Check("key-as-cron", "error", found.error, found.mend, found.exit_code)
    return Check(
        "key-as-cron",
        "ok",
        f"The private key (passphrase: {found.storage}) opens without environment, terminal or person.",
    )
