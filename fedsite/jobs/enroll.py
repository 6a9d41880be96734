"""Enrolment: the key is made here and stays here; the certificate comes, the federation is pinned."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fedsite.errors import NotAuthorised, ServerBrokeProtocol, SourceMissing, UsageError
from fedsite.files import PRIVATE_FILE, write_atomically
from fedsite.jobs import recover
from fedsite.jobs.lock import only_run
from fedsite.jobs.network import proxy_for
from fedsite.jobs.site import Site
from fedsite.site import identity
from fedsite.site.identity import IdentityFiles, Pinned
from fedsite.site.secrets import create_secret
from fedsite.wire import enrolment
from fedsite.wire.enrolment import Invitation
from fedsite.wire.messages import Trust, utc_now
from fedsite.wire.transport import Patience


@dataclass(frozen=True)
class Enrolled:
    """What was pinned, the agreement's text, and the charges for what the server has had of such a site before."""

    pinned: Pinned
    agreement: str
    charged: list[dict[str, Any]]


def enroll(site: Site, invitation: Invitation) -> Enrolled:
    """Gets this site's certificate, pins the federation, and charges what the server has had of this site before.

    Harmless to repeat: the same invitation and key give the same certificate. A new invitation gives a new one, which
    is the way back for a site whose certificate has ended; everything else stays. An old invitation changes nothing.
    Raises UsageError when this state folder belongs to another federation or site, RecordsDamaged when its records
    are, NotAuthorised, Unreachable, ServerBrokeProtocol.
    """
    with only_run(site.state.folder):
        site.state.verify()
        _refuse_another_federation(site, invitation)
        try:
            _get_certificate(site, invitation)
        except NotAuthorised:
            if not site.files.certificate.is_file():
                raise
        with site.client_for(invitation.server) as client:
            trust = client.trust()
            pinned = _pin(site, invitation, trust)
            charged = recover.charge_unknown(site, pinned, client, client.updates() or [])
        return Enrolled(pinned, trust.agreement, charged)


def accept_agreement(site: Site, person: str) -> Pinned:
    """Records who accepted the data-use agreement, when, and its digest."""
    pinned = replace(site.pinned, agreement_accepted_by=person, agreement_accepted_at=utc_now().isoformat())
    with site.state.transaction():
        site.state.audit(
            "agreement accepted", by=person, sha256=pinned.agreement_sha256, expires=pinned.agreement_expires
        )
        identity.pin(site.files, pinned)
    return pinned


def certificate_of(site: Site) -> bytes:
    """The certificate's bytes; none before enrolment."""
    return site.files.certificate.read_bytes() if site.files.certificate.is_file() else b""


def _refuse_another_federation(site: Site, invitation: Invitation) -> None:
    files = site.files
    if files.authority.is_file() and identity.authority_sha256(files) != invitation.ca_sha256:
        raise UsageError(
            "This state folder belongs to another federation.", "Use one state folder for each federation."
        )
    if files.federation.is_file() and identity.pinned(files).site != invitation.site:
        raise UsageError(
            f"This state folder belongs to site {identity.pinned(files).site}, the invitation to {invitation.site}.",
            "Use the invitation that was made for this site, or another state folder.",
        )


def _get_certificate(site: Site, invitation: Invitation) -> None:
    files, proxy = site.files, proxy_for(site.config.network, invitation.server)
    patience = Patience(site.config.network.patience_seconds)
    authority = enrolment.fetch_ca(invitation.server, invitation.ca_sha256, proxy, patience, site.witness)
    key = _key(files)
    certificates = enrolment.enroll(invitation, authority, key, proxy, patience, site.witness)
    if certificate_of(site) == certificates:
        return
    with site.state.transaction():
        site.state.audit(
            "enrolled",
            site=invitation.site,
            server=invitation.server,
            certificate_sha256=hashlib.sha256(certificates).hexdigest(),
        )
        write_atomically(files.authority, authority, PRIVATE_FILE)
        write_atomically(files.certificate, certificates, PRIVATE_FILE)


def _key(files: IdentityFiles) -> EllipticCurvePrivateKey:
    """The private key of an earlier attempt, else a new one: only the same key may ask again."""
    passphrase = create_secret(files.passphrase).decode()
    if files.key.is_file():
        return enrolment.key_from_pem(files.key.read_bytes(), passphrase)
    key = enrolment.new_key()
    write_atomically(files.key, enrolment.key_to_pem(key, passphrase), PRIVATE_FILE)
    return key


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
    if not path.is_file():
        raise SourceMissing("There is no such invitation file.", "Name the file, or pass - and paste it on stdin.")
    return path.read_text(encoding="utf-8", errors="replace")
