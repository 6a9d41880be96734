"""Who may come in: invitations, certificates, revocation (the registration side of EST, RFC 7030).

Every request is judged anew against the database, so a revocation takes effect at the next request.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fedsite.errors import UsageError
from fedsite.server.authority.authority import STRONG_KEYS, described, is_strong, why_unfit
from fedsite.server.federation import Federation
from fedsite.server.members.sightings import last_seen
from fedsite.server.problems import Refused
from fedsite.server.store.storage import AttendanceRow, CertificateRow, InvitationRow, UploadRow
from fedsite.wire.enrolment import Invitation, fingerprint, new_secret, path_from, spki_sha256
from fedsite.wire.messages import Trust
from fedsite.wire.signing import public_key

UNAUTHORISED = {"WWW-Authenticate": 'Basic realm="est"'}

log = logging.getLogger("fedsite.server")


@dataclass(frozen=True)
class PendingKey:
    """A key (SHA-256 of its SubjectPublicKeyInfo) that asks with an invitation, and since when."""

    sha256: str
    since: datetime


@dataclass(frozen=True)
class SiteStanding:
    """A site as the coordinator sees it.

    `status` is enrolled, pending (asks for its first certificate, or its next after an end), invited, expired or
    revoked. `seen`: when it last showed its certificate. `contributions` counts its updates that have a receipt,
    `refusals` the rounds that it has declined, `rejected` its updates that were not admitted; `pending` names the keys
    that await a person's approval, an enrolled site's too.
    """

    site: str
    status: str
    certificate_expires: datetime | None
    seen: datetime | None
    contributions: int
    refusals: int
    rejected: int
    pending: tuple[PendingKey, ...]


def invite(
    federation: Federation, site: str, lifetime: timedelta, url: str, approval: bool | None = None
) -> Invitation:
    """Makes an invitation; only the hash of its secret is kept. `approval`: as the federation says where it is None."""
    invitation = Invitation(url, site, new_secret(), fingerprint(federation.authority.root))
    invitation.encode()
    now = federation.clock()
    row = InvitationRow(
        secret_sha256=_hashed(invitation.secret),
        site=site,
        created=now,
        expires=now + lifetime,
        approval=federation.approval if approval is None else approval,
    )
    with federation.database.writing() as session:
        session.add(row)
    return invitation


def enrol(federation: Federation, site: str, secret: str, request: bytes) -> x509.Certificate | None:
    """The certificate for a PKCS#10 request (DER) that comes with an invitation's secret; None: ask again later.

    An invitation serves the first key that asks with it. That key gets the same certificate again (its first answer
    may have been lost); where a person must approve, it waits. Refuses: 401 for a wrong secret, 403 when the
    invitation is expired, revoked or has served another key, 400 for an unfit request.
    """
    with federation.database.reading() as session:  # whoever knows no secret takes no turn at writing
        _invitation(session, site, secret)
    key, now = _requested_key(request), federation.clock()
    with federation.database.writing() as session:
        invitation = _invitation(session, site, secret)
        _spend(invitation, spki_sha256(key), now)
        if invitation.pending:
            return None
        if invitation.served:
            return _issued_for(session, site, spki_sha256(key))
        invitation.served = now
        return _issue(federation, session, site, key, now)


def approve(federation: Federation, site: str, key: str = "") -> str:
    """A person's yes to the key that asks for a site's certificate; gives its SHA-256.

    `key` is how that SHA-256 begins: needed where several ask. Raises UsageError unless just one key fits.
    """
    now = federation.clock()
    with federation.database.writing() as session:
        invitations = session.scalars(select(InvitationRow).where(InvitationRow.site == site)).all()
        fitting = [one for one in invitations if one.pending and (one.spki_sha256 or "").startswith(key.lower())]
        keys = {one.spki_sha256 or "" for one in fitting}
        if len(keys) != 1:
            asks = f"{len(keys)} keys ask" if keys else "No such key asks" if key else "Nobody asks"
            raise UsageError(
                f"{asks} for approval in the name of {site!r}.",
                "See fedsite server site list; where several keys ask, name one with --key.",
            )
        for one in fitting:
            one.approved = now
    (approved,) = keys
    log.info("%s is approved with key %s", site, approved)
    return approved


def reenrol(federation: Federation, site: str, request: bytes) -> x509.Certificate:
    """The next certificate of an authenticated site. The same young key gets its certificate again.

    Refuses with 403 a site that has been revoked since it was authenticated, with 400 an unfit request.
    """
    key, now = _requested_key(request), federation.clock()
    with federation.database.writing() as session:
        refuse_revoked(session, site)
        row = _newest_certificate(session, site, spki_sha256(key))
        if row is not None and row.revoked is None and _is_young(row, now):
            return x509.load_der_x509_certificate(row.der)
        return _issue(federation, session, site, key, now)


def register(federation: Federation, site: str, certificates: Sequence[x509.Certificate]) -> datetime:
    """Takes in a site's certificate, the first of these, that another authority of the same root has made.

    The others may lead towards the root. Gives when it ends; harmless to repeat. Raises UsageError when it does not
    lead to this federation's root, is not fit for a site, or is known under another name or as revoked.
    """
    first, *others = certificates
    now, authority = federation.clock(), federation.authority
    Invitation(federation.url, site, new_secret(), fingerprint(authority.root)).encode()
    if path_from(first, [*others, *authority.chain])[-1] != authority.root:
        raise UsageError(
            f"The certificate of {described(first)} does not lead to this federation's root.",
            "Put the certificates between the two into the file, after it.",
        )
    unfit = why_unfit(first, now)
    if unfit:
        raise UsageError(f"The certificate of {described(first)} cannot be a site's: {unfit}.")
    with federation.database.writing() as session:
        known = session.scalars(select(CertificateRow).where(CertificateRow.sha256 == fingerprint(first))).first()
        if known is not None and (known.site != site or known.revoked):
            standing = "revoked" if known.revoked else f"that of {known.site}"
            raise UsageError(f"The certificate of {described(first)} is known here already: it is {standing}.")
        if known is None:
            _remember(session, site, first, now)
    return first.not_valid_after_utc


def authenticate(federation: Federation, certificate: bytes | None) -> str:
    """The site that a TLS client certificate (DER) stands for.

    TLS has verified it against our root; here it must also be known, unexpired and unrevoked. Refuses with 401
    (none shown) or 403.
    """
    if certificate is None:
        raise Refused(HTTPStatus.UNAUTHORIZED, "certificate-needed", "This needs a site's certificate.")
    with federation.database.reading() as session:
        known = select(CertificateRow).where(CertificateRow.sha256 == hashlib.sha256(certificate).hexdigest())
        row = session.scalars(known).first()
    if row is None:
        raise _forbidden("certificate-unknown", "This certificate was not issued to a site.")
    if row.revoked is not None:
        raise _forbidden("certificate-revoked", f"The certificate of {row.site} was revoked.")
    if row.expires <= federation.clock():
        raise _forbidden("certificate-expired", f"The certificate of {row.site} has expired.")
    return row.site


def refuse_revoked(session: Session, site: str) -> None:
    """For a transaction whose work must not be done once a site, let in a moment ago, is revoked: 403 when it is."""
    own = select(CertificateRow).where(CertificateRow.site == site).order_by(CertificateRow.number.desc()).limit(1)
    newest = session.scalars(own).first()
    if newest is not None and newest.revoked is not None:
        raise _forbidden("certificate-revoked", f"The certificate of {site} was revoked.")


def revoke(federation: Federation, site: str) -> int:
    """Revokes a site's certificates and invitations; gives how many certificates. UsageError for an unknown site."""
    now = federation.clock()
    with federation.database.writing() as session:
        known = {*session.scalars(select(InvitationRow.site)), *session.scalars(select(CertificateRow.site))}
        if site not in known:
            raise UsageError(f"There is no site {site!r}.", "See fedsite server site list.")
        invitations = update(InvitationRow).where(InvitationRow.site == site, InvitationRow.revoked.is_(None))
        session.execute(invitations.values(revoked=now))
        certificates = update(CertificateRow).where(CertificateRow.site == site, CertificateRow.revoked.is_(None))
        revoked = session.scalars(certificates.values(revoked=now).returning(CertificateRow.sha256)).all()
    return len(revoked)


def standings(federation: Federation) -> list[SiteStanding]:
    """All sites that were ever invited, or whose certificate was registered, by name."""
    now = federation.clock()
    with federation.database.reading() as session:
        invitations = session.scalars(select(InvitationRow)).all()
        certificates = session.scalars(
            select(CertificateRow).order_by(CertificateRow.expires, CertificateRow.number)
        ).all()
        updates = Counter((one.site, one.state) for one in session.execute(select(UploadRow.site, UploadRow.state)))
        refusals = Counter(session.scalars(select(AttendanceRow.site).where(AttendanceRow.refused.is_not(None))))
    seen = last_seen(federation)
    standing = []
    for site in sorted({one.site for one in invitations} | {one.site for one in certificates}):
        own = [one for one in certificates if one.site == site]
        kept = [one for one in own if one.revoked is None]
        invited = [one for one in invitations if one.site == site]
        status = _status(kept, invited, now)
        expires = (kept or own)[-1].expires if own else None
        pending = {PendingKey(one.spki_sha256 or "", one.asked or now) for one in invited if one.pending}
        standing.append(
            SiteStanding(
                site=site,
                status=status,
                certificate_expires=expires,
                seen=seen.get(site),
                contributions=updates[site, "accepted"],
                refusals=refusals[site],
                rejected=updates[site, "refused"],
                pending=tuple(sorted(pending, key=lambda one: one.since)),
            )
        )
    return standing


def trust(federation: Federation, site: str) -> Trust:
    """What a site pins once it is enrolled."""
    return Trust(
        federation=federation.name,
        site=site,
        plan_keys=[public_key(federation.plan_key)],
        plan_threshold=1,
        agreement=federation.agreement,
        agreement_sha256=hashlib.sha256(federation.agreement.encode()).hexdigest(),
        agreement_expires=federation.agreement_expires,
    )


def _status(kept: Sequence[CertificateRow], invitations: Sequence[InvitationRow], now: datetime) -> str:
    """From a site's unrevoked certificates, the last to expire at the end, and all its invitations."""
    if kept and kept[-1].expires > now:
        return "enrolled"
    if any(one.pending for one in invitations):
        return "pending"
    if any(one.revoked is None and one.spki_sha256 is None and one.expires > now for one in invitations):
        return "invited"
    return "expired" if kept or (invitations and all(one.revoked is None for one in invitations)) else "revoked"


def _invitation(session: Session, site: str, secret: str) -> InvitationRow:
    found = session.get(InvitationRow, _hashed(secret))
    if found is None or found.site != site:
        raise Refused(HTTPStatus.UNAUTHORIZED, "invitation-wrong", "Site and invitation do not match.", UNAUTHORISED)
    if found.revoked:
        raise _forbidden("invitation-revoked", "The invitation was revoked.")
    return found


def _spend(invitation: InvitationRow, spki: str, now: datetime) -> None:
    """Binds an invitation to the first key that asks with it; refuses any other, and one that comes too late."""
    if invitation.spki_sha256 is None:
        if invitation.expires <= now:
            raise _forbidden("invitation-expired", "The invitation has expired.")
        invitation.spki_sha256, invitation.asked = spki, now
        if invitation.approval:
            log.info("%s awaits approval with key %s", invitation.site, spki)
    elif invitation.spki_sha256 != spki:
        log.warning("the invitation of %s was shown again, with another key", invitation.site)
        raise _forbidden("invitation-spent", "The invitation has served another key.")


def _is_young(row: CertificateRow, now: datetime) -> bool:
    return row.expires - now > (row.expires - row.issued) * 2 / 3


def _issue(
    federation: Federation,
    session: Session,
    site: str,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    now: datetime,
) -> x509.Certificate:
    certificate = federation.authority.issue_site(key, site, now)
    _remember(session, site, certificate, now)
    return certificate


def _remember(session: Session, site: str, certificate: x509.Certificate, now: datetime) -> None:
    session.add(
        CertificateRow(
            sha256=fingerprint(certificate),
            site=site,
            spki_sha256=spki_sha256(certificate.public_key()),
            der=certificate.public_bytes(Encoding.DER),
            issued=now,
            expires=certificate.not_valid_after_utc,
        )
    )
    log.info("%s has a new certificate until %s", site, certificate.not_valid_after_utc)


def _issued_for(session: Session, site: str, spki: str) -> x509.Certificate:
    row = _newest_certificate(session, site, spki)
    assert row is not None  # the invitation and its certificate are written in one transaction
    return x509.load_der_x509_certificate(row.der)


def _newest_certificate(session: Session, site: str, spki: str) -> CertificateRow | None:
    found = select(CertificateRow).where(CertificateRow.site == site, CertificateRow.spki_sha256 == spki)
    return session.scalars(found.order_by(CertificateRow.number.desc()).limit(1)).first()


def _requested_key(request: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """The public key of a request that proves possession of it, if it is strong enough."""
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise Refused(HTTPStatus.BAD_REQUEST, "request-malformed", "This is no PKCS#10 request.") from None
    if not (isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) and is_strong(key)):
        raise Refused(HTTPStatus.BAD_REQUEST, "key-weak", f"The key must be {STRONG_KEYS}.")
    if not _is_proven(parsed):
        raise Refused(HTTPStatus.BAD_REQUEST, "request-unproven", "The request is not signed by its own key.")
    return key


def _is_proven(request: x509.CertificateSigningRequest) -> bool:
    try:
        return request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        return False


def _forbidden(kind: str, title: str) -> Refused:
    return Refused(HTTPStatus.FORBIDDEN, kind, title)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
