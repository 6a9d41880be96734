"""Updates arrive here: announced, appended in parts, resumed, admitted, and acknowledged exactly once.

The part of the IETF draft "Resumable Uploads for HTTP" that protocol.md names. A site has one update per round;
announcing the same again is the same upload, so after any accident a client announces and goes on. The offset told
to clients counts fsynced bytes only. Everything here blocks: `receiver` calls it from threads.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from fedsite.files import PRIVATE_FILE, fsync_folder, sha256_of
from fedsite.server.exchange.headers import LENGTH, SEQUENCE, malformed, read_digest, read_weight
from fedsite.server.federation import Federation
from fedsite.server.members.enrolment import refuse_revoked
from fedsite.server.problems import Refused, no_such_round, round_closed
from fedsite.server.rounds.aggregation import why_unfit
from fedsite.server.rows import plan_of, series_of, takes_until, update_path
from fedsite.server.store.storage import RoundRow, UploadRow
from fedsite.wire.messages import Receipt
from fedsite.wire.payload import Layout, layout_of
from fedsite.wire.plans import Plan
from fedsite.wire.signing import RECEIPT, sign

SYNC_BYTES = 8 << 20
MAX_PART_BYTES = 64 << 20
MAX_FAILURES = 3
"""How often a site may send an update's bytes wrongly: what it can make the server take in a round has an end."""
REFUSED_KEPT = 3
"""Refused updates of a site that stay for a person to look at, the newest."""

log = logging.getLogger("fedsite.server")


@dataclass(frozen=True)
class Announcement:
    """What a site says of its update before sending it."""

    sha256: str
    size: int
    ledger_sequence: int
    weight: float | None


def read_announcement(headers: Mapping[str, str]) -> Announcement:
    """From the headers of a creation; refuses with 400 what is missing or out of range."""
    return Announcement(
        sha256=read_digest(headers),
        size=LENGTH.read(headers),
        ledger_sequence=SEQUENCE.read(headers),
        weight=read_weight(headers),
    )


def announce(federation: Federation, site: str, number: int, said: Announcement) -> UploadRow:
    """The upload of a site's update: a new one, or the one that was announced before.

    Refuses: 404 no such round, 409 another update is here, 409 the round is closed, 422 not admitted.
    """
    with federation.database.writing() as session:
        row = session.get(RoundRow, number)
        if row is None:
            raise no_such_round()
        own = select(UploadRow).where(UploadRow.round == number, UploadRow.site == site)
        upload = session.scalars(own).first()
        if upload is None:
            upload = _begin(federation, session, row, site, said)
        elif (upload.sha256, upload.size, upload.ledger_sequence) != (said.sha256, said.size, said.ledger_sequence):
            raise Refused(
                HTTPStatus.CONFLICT, "another-update", f"There is another update of {site} for round {number}."
            )
    return _usable(upload)


def find(federation: Federation, site: str, upload_id: str) -> UploadRow:
    """A site's own upload; 404 for anybody else's. Refuses as `announce` does when it was refused or came late."""
    with federation.database.reading() as session:
        upload = session.get(UploadRow, upload_id)
    if upload is None or upload.site != site:
        raise Refused(HTTPStatus.NOT_FOUND, "no-such-upload", "There is no such upload.")
    return _usable(upload)


def state_headers(upload: UploadRow) -> dict[str, str]:
    """Where an upload stands, as headers."""
    return {
        "Location": f"/v1/uploads/{upload.id}",
        "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.size),
        "Upload-Complete": "?1" if upload.state == "accepted" else "?0",
        "Upload-Limit": f"max-size={upload.size}, max-append-size={MAX_PART_BYTES}",
        "Cache-Control": "no-store",
    }


class Part:
    """An upload's file while one request appends to it. Another thread may close it at any moment."""

    def __init__(self, federation: Federation, upload: UploadRow, offset: int) -> None:
        """Opens the file at its durable end; refuses with 409 when that is not `offset`."""
        self._federation, self._upload, self._lock = federation, upload, threading.Lock()
        path, kept = _incoming(federation, upload.id), update_path(federation, upload.id)
        if kept.exists() and not path.exists():  # a crash came between the file's last rename and its receipt
            kept.replace(path)
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE), "r+b", buffering=0)
        durable = min(upload.offset, self._file.seek(0, os.SEEK_END))
        if durable == 0:
            fsync_folder(path.parent)  # its name may be new
        if offset != durable:
            self._file.close()
            raise Refused(
                HTTPStatus.CONFLICT,
                "offset-wrong",
                f"The next byte is {durable}, not {offset}.",
                state_headers(upload) | {"Upload-Offset": str(durable)},
            )
        self._file.truncate(durable)
        self._end, self._saved = self._file.seek(durable), upload.offset

    def write(self, block: bytes) -> None:
        """Appends; every 8 MiB become durable on the way."""
        with self._lock:
            if self._file.closed:
                raise Refused(HTTPStatus.CONFLICT, "superseded", "A newer request appends to this upload.")
            if self._end + len(block) > self._upload.size:
                raise Refused(HTTPStatus.BAD_REQUEST, "too-long", "There are more bytes than were announced.")
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
            self._end += len(block)
            if self._end - self._saved >= SYNC_BYTES:
                self._save()

    def close(self) -> None:
        """Makes what was written durable, and closes."""
        with self._lock:
            if not self._file.closed:
                try:
                    if self._end != self._saved:
                        self._save()
                finally:
                    self._file.close()

    def _save(self) -> None:
        os.fsync(self._file.fileno())
        with self._federation.database.writing() as session:
            upload = session.get(UploadRow, self._upload.id)
            if upload is not None and upload.state == "receiving":
                upload.offset = self._end
        self._saved = self._end


def conclude(federation: Federation, site: str, upload_id: str) -> UploadRow:
    """Admits a complete upload and gives its receipt; refuses as `announce` does, 400 when the digest is another.

    Once it was another too often, the update is refused for good.
    """
    upload = find(federation, site, upload_id)
    if upload.state == "accepted":
        return upload
    path = _incoming(federation, upload.id)
    if sha256_of(path) != upload.sha256:
        _usable(_start_again(federation, upload, path))
        raise Refused(HTTPStatus.BAD_REQUEST, "digest-wrong", "The bytes are not those of the announced digest.")
    with federation.database.reading() as session:
        row = session.scalars(select(RoundRow).where(RoundRow.number == upload.round)).one()
        plan = plan_of(federation, series_of(session, row))
    reason = why_unfit(path, _layout(federation, row, plan), plan.max_update_norm)
    if reason is not None:
        return _usable(_keep_apart(federation, upload, path, reason))
    kept = update_path(federation, upload.id)
    path.replace(kept)
    fsync_folder(kept.parent)
    return _usable(_acknowledge(federation, upload.id, plan))


def _acknowledge(federation: Federation, upload_id: str, plan: Plan) -> UploadRow:
    """Receipt and row in one transaction, in which round and site must still stand."""
    with federation.database.writing() as session:
        upload = session.scalars(select(UploadRow).where(UploadRow.id == upload_id)).one()
        row = session.scalars(select(RoundRow).where(RoundRow.number == upload.round)).one()
        if row.status != "open" or takes_until(plan, row) <= federation.clock():
            upload.state, upload.reason = "late", "its last byte came after the round had closed"
            return upload
        refuse_revoked(session, upload.site)
        upload.state, upload.offset, upload.received = "accepted", upload.size, federation.clock()
        receipt = Receipt(
            federation=federation.name,
            site=upload.site,
            round=upload.round,
            plan_sha256=series_of(session, row).plan_sha256,
            ticket_sha256=row.ticket_sha256,
            update_sha256=upload.sha256,
            update_bytes=upload.size,
            ledger_sequence=upload.ledger_sequence,
            received=upload.received,
        )
        upload.receipt = sign(receipt.to_bytes(), RECEIPT, [federation.receipt_key]).to_bytes().decode()
    log.info("round %d of plan %s has the update of %s", upload.round, plan.plan, upload.site)
    return upload


def _begin(federation: Federation, session: Session, row: RoundRow, site: str, said: Announcement) -> UploadRow:
    """A new upload. Whether it is late, and its size, are judged at once, before a byte is taken."""
    plan = plan_of(federation, series_of(session, row))
    if (plan.weights == "declared") != (said.weight is not None):
        raise malformed(f"The plan's weights are {plan.weights}; Fedsite-Weight must say so.")
    upload = UploadRow(
        id=hashlib.sha256(f"{site}\0{row.number}\0{said.sha256}".encode()).hexdigest()[:32],
        round=row.number,
        site=site,
        sha256=said.sha256,
        size=said.size,
        ledger_sequence=said.ledger_sequence,
        weight=1.0 if said.weight is None else min(said.weight, plan.maximum_weight),
        created=federation.clock(),
    )
    expected = _layout(federation, row, plan).file_bytes
    if row.status != "open" or row.expires <= federation.clock():
        upload.state, upload.reason = "late", "it was announced after the round had closed"
    elif said.size != expected:
        upload.state, upload.reason = "refused", f"its size is {said.size} bytes, not {expected}"
    session.add(upload)
    return upload


def _keep_apart(federation: Federation, upload: UploadRow, path: Path, reason: str) -> UploadRow:
    apart = federation.folder / "refused" / upload.id
    path.replace(apart)
    fsync_folder(apart.parent)
    with federation.database.writing() as session:
        row = session.scalars(select(UploadRow).where(UploadRow.id == upload.id)).one()
        row.state, row.reason = "refused", reason
        refused = select(UploadRow.id).where(UploadRow.site == upload.site, UploadRow.state == "refused")
        old = session.scalars(refused.order_by(UploadRow.round.desc()).offset(REFUSED_KEPT)).all()
    for name in old:
        (apart.parent / name).unlink(missing_ok=True)
    log.warning("round %d: the update of %s was refused: %s", upload.round, upload.site, reason)
    return row


def _start_again(federation: Federation, upload: UploadRow, path: Path) -> UploadRow:
    with federation.database.writing() as session:
        row = session.scalars(select(UploadRow).where(UploadRow.id == upload.id)).one()
        row.offset, row.failures = 0, row.failures + 1
        if row.failures >= MAX_FAILURES:
            row.state, row.reason = "refused", f"{MAX_FAILURES} times its bytes were not those of its digest"
    path.unlink()
    return row


def _usable(upload: UploadRow) -> UploadRow:
    """The upload, unless its end was that it was refused or came late."""
    if upload.state == "refused":
        title = f"The update of {upload.site} for round {upload.round} is refused: {upload.reason}."
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "update-refused", title)
    if upload.state == "late":
        raise round_closed(upload.round)
    return upload


def _layout(federation: Federation, row: RoundRow, plan: Plan) -> Layout:
    return layout_of(federation.models.path(row.model_sha256)).encoded(plan.payload)


def _incoming(federation: Federation, upload_id: str) -> Path:
    return federation.folder / "incoming" / upload_id
