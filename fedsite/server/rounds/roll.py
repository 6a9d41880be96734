"""Who did what in a round: every site that belonged to the federation in its time, once, and why."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fedsite.server.store.storage import AttendanceRow, CertificateRow, RoundRow, UploadRow

Entry = dict[str, Any]


def call(session: Session, row: RoundRow, now: datetime) -> dict[str, Any]:
    """The sites by what became of them, and `asked`: when each was given the round.

    `took_part`: has its receipt, and its update counts. `left_out`: has its receipt, and the screen or a person has
    left its update out. (Both with `revoked`: when the site was, if it is, whose update stays unless a person leaves it
    out.) `rejected`: its update was not admitted. `late`: its update was not whole in time. `refused`: it declined.
    `revoked`: it was revoked meanwhile, without an update. `at_work`: has the round, which is open. `dropped`: had it,
    and sent nothing. `absent`: was enrolled, and never came.
    """
    until, is_open = row.closed or now, row.status == "open"
    certificates = session.scalars(select(CertificateRow).order_by(CertificateRow.number)).all()
    uploads = {one.site: one for one in session.scalars(select(UploadRow).where(UploadRow.round == row.number))}
    attendance = {
        one.site: one for one in session.scalars(select(AttendanceRow).where(AttendanceRow.round == row.number))
    }
    names = ("took_part", "left_out", "rejected", "late", "refused", "revoked", "at_work", "dropped", "absent")
    found: dict[str, Any] = {name: [] for name in names}
    for site in sorted(uploads.keys() | attendance.keys() | _members(certificates, row.opened, until)):
        upload, attended = uploads.get(site), attendance.get(site)
        own = [one for one in certificates if one.site == site]
        if upload is None:
            part, entry = _without_update(attended, own, until, is_open=is_open)
        else:
            part, entry = _of_update(upload, attended, own)
        found[part].append({"site": site, **entry})
    found["asked"] = {one.site: one.offered.isoformat() for one in attendance.values() if one.offered}
    return found


def _of_update(upload: UploadRow, attended: AttendanceRow | None, own: Sequence[CertificateRow]) -> tuple[str, Entry]:
    """What became of a site that has announced an update."""
    if upload.state == "accepted":
        revoked = own[-1].revoked if own else None
        entry = _contribution(upload) | {"revoked": revoked and revoked.isoformat()}
        return ("left_out", entry | {"reason": upload.left_out}) if upload.left_out else ("took_part", entry)
    if upload.state == "receiving":
        return "at_work", {}
    if upload.state == "refused":
        return "rejected", {"reason": upload.reason}
    declined = attended.refusal if attended else ""
    return "late", {"reason": f"{upload.reason}; it says: {declined}" if declined else upload.reason}


def _without_update(
    attended: AttendanceRow | None, own: Sequence[CertificateRow], until: datetime, *, is_open: bool
) -> tuple[str, Entry]:
    if attended and attended.refused:
        return "refused", {"reason": attended.refusal}
    if own and not _members(own, until, until) and (revoked := own[-1].revoked):
        return "revoked", {"reason": f"on {revoked:%Y-%m-%d %H:%M} UTC"}
    if attended is None:
        return "absent", {}
    return "at_work" if is_open else "dropped", {}


def _members(certificates: Sequence[CertificateRow], begin: datetime, end: datetime) -> set[str]:
    """The sites that held a certificate in force at some moment of a time."""
    return {
        one.site
        for one in certificates
        if one.issued <= end and one.expires > begin and (one.revoked is None or one.revoked > begin)
    }


def _contribution(row: UploadRow) -> Entry:
    assert row.received is not None  # written with the receipt
    return {
        "update_sha256": row.sha256,
        "bytes": row.size,
        "weight": row.weight,
        "announced": row.created.isoformat(),
        "ledger_sequence": row.ledger_sequence,
        "received": row.received.isoformat(),
    }
