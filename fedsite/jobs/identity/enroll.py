"""Enrolment: the key is made here and stays here; the certificate comes, the federation is pinned."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedsite.errors import NotAuthorised, ServerBrokeProtocol, SourceMissing, TryAgainLater, UsageError
from fedsite.files import PRIVATE_FILE, write_atomically
from fedsite.jobs import trail
from fedsite.jobs.identity.renew import key_of, put_into_use, take_up
from fedsite.jobs.lock import only_run
from fedsite.jobs.network import proxy_for
from fedsite.jobs.recovery import recover
from fedsite.jobs.round.guard import NO_AGREEMENT
from fedsite.jobs.site import Site, client_of
from fedsite.site import identity, secrets, versions
from fedsite.site.identity import Choice, Pinned, Version
from fedsite.site.secrets import Wanted
from fedsite.wire import enrolment
from fedsite.wire.client import OutOfDate, or_clock
from fedsite.wire.enrolment import Invitation
from fedsite.wire.messages import Trust, utc_now
from fedsite.wire.transport import Patience


@dataclass(frozen=True)
class Enrolled:
    """What was pinned, the agreement's text, and the charges for what the server has had of such a site before."""

    pinned: Pinned
    agreement: str
    charged: list[dict[str, Any]]


def enroll(site: Site, invitation: Invitation, wanted: Wanted = "auto") -> Enrolled:
    """Gets this site's certificate, pins the federation, and charges what the server has had of this site before.

    Harmless to repeat: until it has succeeded the same key asks again. A new invitation gives a new key and a new
    certificate, which is the way back for a site whose certificate has ended; everything else stays. An old invitation
    changes nothing. Raises UsageError when this state folder belongs to another federation or site, RecordsDamaged when
    its records are, ConfigurationError when the key's passphrase cannot be kept where it is `wanted`, TryAgainLater
    while a person's approval is awaited, NotAuthorised, Unreachable, ServerBrokeProtocol.
    """
    with _alone(site, invitation):
        return _finish(site, invitation, _certified(site, invitation, wanted))


def enrolled(site: Site) -> Enrolled:
    """What an enrolled site has pinned; while its agreement awaits a person, with the text, from the server.

    Raises NotAuthorised before enrolment, and as `enroll` does.
    """
    pinned = site.pinned
    if pinned.agreement_accepted_by or pinned.agreement_sha256 == NO_AGREEMENT:
        return Enrolled(pinned, "", [])
    known = known_federation(site)
    with (
        _alone(site, known),
        client_of(site.files, site.config, known.server, site.witness, site.files.current) as client,
    ):
        trust = client.trust()
        return Enrolled(_pin(site, known, trust), trust.agreement, [])


def request_certificate(site: Site, invitation: Invitation, wanted: Wanted, path: Path) -> None:
    """Makes the key and writes a request (PKCS#10, PEM) for an authority other than the federation's server.

    Harmless to repeat: the same key asks until a certificate for it is imported. Raises as `enroll` does.
    """
    with _alone(site, invitation):
        version = take_up(site, _choice(site, wanted, imported=True))
        request = enrolment.signing_request(key_of(version), invitation.site)
        site.state.audit("certificate requested", site=invitation.site, key_storage=version.choice.place.storage)
        write_atomically(path, request.public_bytes(Encoding.PEM))


def import_certificate(site: Site, invitation: Invitation, path: Path) -> Enrolled:
    """Takes the certificate (PEM, with all between it and the federation's root) that another authority has made.

    Raises UsageError when no request is waiting or the certificate is not its answer, and as `enroll` does.
    """
    with _alone(site, invitation):
        version = versions.pending(site.files)
        if version is None or not version.choice.imported:
            raise UsageError("No key waits for a certificate here.", "Begin with: fedsite enroll --csr-only FILE")
        authority = _fetch_authority(site, invitation)
        try:
            certificates = x509.load_pem_x509_certificates(_content(path))
            chain = enrolment.own_chain(certificates, key_of(version).public_key(), authority)
        except ValueError as error:
            raise UsageError(
                f"This certificate cannot be used: {error}.",
                "It must be PEM, made for the newest request, followed by all between it and the federation's root.",
            ) from None
        write_atomically(version.certificate, chain, PRIVATE_FILE)
        try:
            return _finish(site, invitation, version)
        except NotAuthorised as error:
            mend = f"The coordinator takes it in first: fedsite server site import {invitation.site} CERTIFICATE"
            raise NotAuthorised(error.message, f"{mend}. Then import it here again.") from error


def known_federation(site: Site) -> Invitation:
    """What an invitation would say of the federation that this site is enrolled in. Raises NotAuthorised."""
    pinned = site.pinned
    return Invitation(pinned.server, pinned.site, "", identity.authority_sha256(site.files))


def accept_agreement(site: Site, person: str) -> Pinned:
    """Records who accepted the data-use agreement, when, and its digest. Raises UsageError without a name."""
    if not (name := person.strip()):
        raise UsageError("Somebody must accept the agreement.", "Name the person: --accept-agreement NAME")
    pinned = replace(site.pinned, agreement_accepted_by=name, agreement_accepted_at=utc_now().isoformat())
    with site.state.transaction():
        site.state.audit(
            "agreement accepted", by=name, sha256=pinned.agreement_sha256, expires=pinned.agreement_expires
        )
        identity.pin(site.files, pinned)
    return pinned


def certificate_of(site: Site) -> bytes:
    """The certificate's bytes; none before enrolment."""
    return site.files.certificate.read_bytes() if site.files.certificate.is_file() else b""


def needs_invitation(site: Site) -> bool:
    """Whether there is no certificate here, or only one that has ended."""
    return not certificate_of(site) or identity.certificate(site.files).days_left() <= 0


def _refuse_another_federation(site: Site, invitation: Invitation) -> None:
    files = site.files
    enrolled = files.federation.is_file() or files.certificate.is_file()
    if enrolled and files.authority.is_file() and identity.authority_sha256(files) != invitation.ca_sha256:
        raise UsageError(
            "This state folder belongs to another federation.", "Use one state folder for each federation."
        )
    if files.federation.is_file() and identity.pinned(files).site != invitation.site:
        raise UsageError(
            f"This state folder belongs to site {identity.pinned(files).site}, the invitation to {invitation.site}.",
            "Use the invitation that was made for this site, or another state folder.",
        )


def _certified(site: Site, invitation: Invitation, wanted: Wanted) -> Version:
    """A version with the certificate that the invitation brings; the present one where it brings none any more."""
    files, network = site.files, site.config.network
    authority = _fetch_authority(site, invitation)
    waited = versions.pending(files)
    version = take_up(site, _choice(site, wanted))
    proxy, patience = proxy_for(network, invitation.server), Patience(network.patience_seconds)
    try:
        chain = enrolment.enroll(invitation, authority, key_of(version), proxy, patience, site.witness)
    except NotAuthorised as error:
        if version != waited:
            versions.remove(version)
        if not files.certificate.is_file():
            raise
        site.warn(f"{error.message} The present certificate stays.")
        return files.current
    except OutOfDate as error:
        raise or_clock(error, invitation.server, files.authority, proxy=proxy, witness=site.witness) from error
    write_atomically(version.certificate, chain, PRIVATE_FILE)
    return version


def _finish(site: Site, invitation: Invitation, version: Version) -> Enrolled:
    """Tries the certificate by asking for what is to be pinned, then puts it into use."""
    with client_of(site.files, site.config, invitation.server, site.witness, version) as client:
        trust = client.trust()
        pinned = _pin(site, invitation, trust)
        charged = recover.charge_unknown(site, pinned, client, client.updates() or [])
    if version != site.files.current:
        put_into_use(site, version, "enrolled")
    return Enrolled(pinned, trust.agreement, charged)


@contextmanager
def _alone(site: Site, invitation: Invitation) -> Iterator[None]:
    """No other run, nor renewal, at work; records that are whole; and an invitation that fits them."""
    with only_run(site.state.folder), only_run(site.files.folder):
        site.state.verify()
        _refuse_another_federation(site, invitation)
        with trail.refusals(site.state, ServerBrokeProtocol, NotAuthorised, TryAgainLater):
            yield


def _choice(site: Site, wanted: Wanted, imported: bool = False) -> Choice:
    """The place for the passphrase of the new key; `auto` keeps to the one that was chosen before, if any was."""
    if wanted != "auto":
        return Choice(secrets.choose(wanted), imported)
    waiting, present = versions.pending(site.files), site.files.current
    if waiting and waiting.choice.imported == imported:
        return waiting.choice
    known = present.key.is_file()
    return Choice(secrets.beside(present.choice.place) if known else secrets.choose(wanted), imported)


def _fetch_authority(site: Site, invitation: Invitation) -> bytes:
    """The root that the invitation names (PEM); an earlier attempt has fetched it, perhaps with another invitation."""
    files, network = site.files, site.config.network
    if not files.authority.is_file() or identity.authority_sha256(files) != invitation.ca_sha256:
        proxy, patience = proxy_for(network, invitation.server), Patience(network.patience_seconds)
        root = enrolment.fetch_ca(invitation.server, invitation.ca_sha256, proxy, patience, site.witness)
        write_atomically(files.authority, root, PRIVATE_FILE)
    return files.authority.read_bytes()


def _pin(site: Site, invitation: Invitation, trust: Trust) -> Pinned:
    if hashlib.sha256(trust.agreement.encode()).hexdigest() != trust.agreement_sha256:
        raise ServerBrokeProtocol("The data-use agreement does not have the digest that came with it.")
    if trust.site != invitation.site:
        raise ServerBrokeProtocol(f"The server calls this site {trust.site}, the invitation {invitation.site}.")
    keys = tuple(key.ed25519 for key in trust.plan_keys)
    new = Pinned(
        server=invitation.server,
        site=trust.site,
        federation=trust.federation,
        plan_keys=keys,
        plan_threshold=trust.plan_threshold,
        agreement_sha256=trust.agreement_sha256,
        agreement_expires=trust.agreement_expires.isoformat() if trust.agreement_expires else "",
    )
    if site.files.federation.is_file():
        old = site.pinned
        if (old.federation, old.plan_keys, old.plan_threshold) != (new.federation, new.plan_keys, new.plan_threshold):
            raise ServerBrokeProtocol(
                "The federation shows other signing keys than those that this site pinned.",
                "Ask the coordinator by telephone before anything else; this site keeps the old ones.",
            )
        if (old.agreement_sha256, old.agreement_expires) == (new.agreement_sha256, new.agreement_expires):
            return old
    with site.state.transaction():
        site.state.audit("federation pinned", federation=new.federation, plan_keys=list(keys))
        identity.pin(site.files, new)
    return new


def read_invitation(path: Path) -> str:
    """The line in an invitation file. Raises SourceMissing."""
    return _content(path).decode(errors="replace")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceMissing(f"{path} cannot be read: {error.strerror}.", "Name a file that you may read.") from error
