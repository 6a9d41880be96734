"""What more than one module asks of the rows of series, rounds and updates."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session

from fedsite.server.federation import Federation
from fedsite.server.store.storage import RoundRow, SeriesRow, UploadRow
from fedsite.wire.messages import Envelope, parse
from fedsite.wire.plans import Plan
from fedsite.wire.signing import PLAN, open_envelope, public_key

UNFINISHED = ("open", "closing", "held")
UNSUCCESSFUL = ("failed", "aborted")

UNSUCCESSFUL_KEPT = 3
"""Of so many rounds without a model, the newest, the updates stay for a person to look at."""


def plan_of(federation: Federation, series: SeriesRow) -> Plan:
    """The plan of a series."""
    return open_envelope(envelope_of(series.plan), Plan, PLAN, [public_key(federation.plan_key)])


def envelope_of(text: str) -> Envelope:
    """An envelope as it is stored."""
    return parse(Envelope, text.encode())


def round_of(session: Session, number: int) -> RoundRow:
    """A round that is there."""
    return session.scalars(select(RoundRow).where(RoundRow.number == number)).one()


def series_of(session: Session, row: RoundRow) -> SeriesRow:
    """The series that a round belongs to."""
    return session.scalars(select(SeriesRow).where(SeriesRow.id == row.series_id)).one()


def running(session: Session) -> RoundRow | None:
    """The round that has not ended: one at a time, None between two series and in a pause."""
    return session.scalars(select(RoundRow).where(RoundRow.status.in_(UNFINISHED))).first()


def takes_until(plan: Plan, row: RoundRow) -> datetime:
    """Until when a round takes the rest of an update that it had begun to take before its deadline."""
    return min(row.expires + timedelta(seconds=plan.rounds.grace_seconds), plan.expires)


def accepted(session: Session, number: int) -> Sequence[UploadRow]:
    """The updates of a round that have their receipt, by site: the order in which they are summed."""
    found = select(UploadRow).where(UploadRow.round == number, UploadRow.state == "accepted")
    return session.scalars(found.order_by(UploadRow.site)).all()


def arrived(session: Session, number: int) -> int:
    """How many there are of them: asked at each arrival, so they are not read."""
    found = select(func.count()).where(UploadRow.round == number, UploadRow.state == "accepted")
    return session.scalars(found).one()


def counted(session: Session, number: int) -> Sequence[UploadRow]:
    """Those of them that a round's model is made of: all but what its screen, or a person, has left out."""
    return [one for one in accepted(session, number) if not one.left_out]


def update_path(federation: Federation, upload_id: str) -> Path:
    """Where an accepted update lies as long as `kept_updates` names it."""
    return federation.folder / "updates" / upload_id


def kept_updates() -> Select[UploadRow]:
    """The accepted updates whose files are kept: of the unfinished round, and of the newest that have made no model."""
    without = (
        select(UploadRow.round)
        .join(RoundRow)
        .where(RoundRow.status.in_(UNSUCCESSFUL), UploadRow.state == "accepted")
        .distinct()
        .order_by(UploadRow.round.desc())
        .limit(UNSUCCESSFUL_KEPT)
    )
    needed = or_(RoundRow.status.in_(UNFINISHED), RoundRow.number.in_(without))
    return select(UploadRow).join(RoundRow).where(and_(UploadRow.state == "accepted", needed))
