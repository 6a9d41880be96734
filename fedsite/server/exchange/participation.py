"""What an enrolled site asks and says about rounds: is anything due, the chain of tickets, does it stand, I refuse,
what have you had of me.
"""

from http import HTTPStatus

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedsite.server.federation import Federation
from fedsite.server.problems import Refused, no_such_round
from fedsite.server.rows import counted, envelope_of, running, series_of
from fedsite.server.store.storage import AttendanceRow, ModelRow, RoundRow, SeriesRow, UploadRow
from fedsite.wire.messages import (
    PROTOCOL_VERSIONS,
    Arrival,
    Arrivals,
    Envelope,
    Participation,
    ParticipationRequest,
    Refusal,
    Result,
    RoundAnswer,
    Tickets,
)
from fedsite.wire.signing import RESULT, sign

PAGE = 500
"""Envelopes in one answer: they stay well below the size of the largest message."""

SOON, LATER = 5, 60
"""Seconds to wait while a round is running, and while none is or follows soon."""


def participate(federation: Federation, site: str, request: ParticipationRequest) -> Participation:
    """The open round, unless this site has answered it, or how long to wait; and the site's receipts."""
    if request.protocol not in PROTOCOL_VERSIONS:
        side = "server" if request.protocol > max(PROTOCOL_VERSIONS) else "site"
        spoken = ", ".join(map(str, PROTOCOL_VERSIONS))
        said = (
            f"The server speaks version {spoken} of the protocol, not {request.protocol}: the {side} must be upgraded."
        )
        raise Refused(HTTPStatus.BAD_REQUEST, "protocol-version", said)
    with federation.database.writing() as session:
        receipts = _receipts(session, site, request.ledger_sequence)
        furthest = _furthest(session, site, request.ledger_sequence)
        row = running(session)
        if row is None or not _due(federation, session, row, site):
            waits = row is None or row.status == "held" or series_of(session, row).state == "paused"
            wait = LATER if waits else SOON
            return Participation(retry_after=wait, receipts=receipts, ledger_sequence=furthest)
        attendance = attended(session, row.number, site)
        attendance.offered = attendance.offered or federation.clock()
        plan = envelope_of(series_of(session, row).plan)
        ticket = envelope_of(row.ticket)
        return Participation(plan=plan, ticket=ticket, receipts=receipts, ledger_sequence=furthest)


def arrivals(federation: Federation, site: str, after: int) -> Arrivals:
    """What a site has sent for the rounds after a number, in order: what was announced may have left it."""
    found = select(UploadRow).where(UploadRow.site == site, UploadRow.round > after)
    with federation.database.reading() as session:
        rows = session.scalars(found.order_by(UploadRow.round).limit(PAGE)).all()
    return Arrivals(arrivals=[_arrival(row) for row in rows])


def plan(federation: Federation, sha256: str) -> Envelope:
    """A plan that this federation has signed, by its digest."""
    with federation.database.reading() as session:
        text = session.scalars(select(SeriesRow.plan).where(SeriesRow.plan_sha256 == sha256).limit(1)).first()
    if text is None:
        raise Refused(HTTPStatus.NOT_FOUND, "no-such-plan", "There is no such plan.")
    return envelope_of(text)


def tickets(federation: Federation, after: int) -> Tickets:
    """The tickets of the rounds after a number, in order."""
    with federation.database.reading() as session:
        found = select(RoundRow.ticket).where(RoundRow.number > after).order_by(RoundRow.number).limit(PAGE)
        return Tickets(tickets=[envelope_of(text) for text in session.scalars(found)])


def answer(federation: Federation, number: int) -> RoundAnswer:
    """Where a round stands, in the words that sites know: one that is held is closing (nothing is taken any more,
    nothing has come yet), one that was aborted has failed.
    """
    with federation.database.reading() as session:
        row = session.get(RoundRow, number)
    if row is None:
        raise no_such_round()
    status = {"held": "closing", "aborted": "failed"}.get(row.status, row.status)
    return RoundAnswer.model_validate({"round": row.number, "status": status, "ticket_sha256": row.ticket_sha256})


def latest_result(federation: Federation) -> Envelope:
    """The model of the newest aggregated round, signed by the round key; 404 before the first."""
    newest = select(RoundRow).where(RoundRow.status == "aggregated").order_by(RoundRow.number.desc()).limit(1)
    with federation.database.reading() as session:
        row = session.scalars(newest).first()
        if row is None:
            raise Refused(HTTPStatus.NOT_FOUND, "no-result", "No round has been aggregated yet.")
        model = session.scalars(select(ModelRow).where(ModelRow.sha256 == row.result_sha256)).one()
        result = Result(
            federation=federation.name,
            plan_sha256=series_of(session, row).plan_sha256,
            round=row.number,
            ticket_sha256=row.ticket_sha256,
            model_sha256=model.sha256,
            model_bytes=model.size,
            contributions=len(counted(session, row.number)),
        )
    return sign(result.to_bytes(), RESULT, [federation.round_key])


def refuse(federation: Federation, site: str, number: int, refusal: Refusal) -> None:
    """Records that a site does not take part, and which of the four words it gave; the last one counts."""
    with federation.database.writing() as session:
        if session.get(RoundRow, number) is None:
            raise no_such_round()
        attendance = attended(session, number, site)
        attendance.refused, attendance.refusal = federation.clock(), refusal.reason


def attended(session: Session, number: int, site: str) -> AttendanceRow:
    """The row of a site's attendance at a round, made when it is not there yet."""
    row = session.get(AttendanceRow, (number, site))
    if row is None:
        row = AttendanceRow(round=number, site=site)
        session.add(row)
    return row


def _due(federation: Federation, session: Session, row: RoundRow, site: str) -> bool:
    """Whether a site is given the round. While it is withheld, only those that have had it: they may have paid."""
    if series_of(session, row).withheld and not _has_had(session, row, site):
        return False
    answered = select(UploadRow.id).where(
        UploadRow.round == row.number, UploadRow.site == site, UploadRow.state != "receiving"
    )
    is_open = row.status == "open" and row.expires > federation.clock()
    return is_open and session.scalars(answered).first() is None


def _has_had(session: Session, row: RoundRow, site: str) -> bool:
    attendance = session.get(AttendanceRow, (row.number, site))
    return attendance is not None and attendance.offered is not None


def _arrival(row: UploadRow) -> Arrival:
    return Arrival(
        round=row.round,
        update_sha256=row.sha256,
        ledger_sequence=row.ledger_sequence,
        receipt=envelope_of(row.receipt) if row.receipt else None,
    )


def _furthest(session: Session, site: str, after: int) -> int | None:
    """The furthest ledger sequence that an update of the site has named, if that lies beyond `after`."""
    beyond = UploadRow.site == site, UploadRow.ledger_sequence > after
    return session.scalar(select(func.max(UploadRow.ledger_sequence)).where(*beyond))


def _receipts(session: Session, site: str, after: int) -> list[Envelope]:
    found = select(UploadRow.receipt).where(
        UploadRow.site == site, UploadRow.ledger_sequence > after, UploadRow.receipt.is_not(None)
    )
    ordered = session.scalars(found.order_by(UploadRow.ledger_sequence).limit(PAGE))
    return [envelope_of(text) for text in ordered if text is not None]
