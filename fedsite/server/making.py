"""What a round makes of its updates: the files that the next one starts from.

Everything comes from stored files and rows, so a crash simply repeats it, byte for byte: the velocity of a momentum is
what the model moved by in the round before, FedAdam's moments and SCAFFOLD's control are files that it has made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedsite.server.aggregation import Controls, Moments, Rules, Start, Update, following
from fedsite.server.federation import Federation
from fedsite.server.storage import ControlRow, ModelRow, MomentsRow, RoundRow, UploadRow
from fedsite.wire.messages import Envelope, Ticket, parse
from fedsite.wire.payload import layout_of
from fedsite.wire.plans import Plan
from fedsite.wire.signing import TICKET, open_envelope, public_key


@dataclass(frozen=True)
class Made:
    """What a round starts from, by digest: the model (and its size), the server's control, moments."""

    model_sha256: str
    model_bytes: int
    control_sha256: str | None = None
    moments: tuple[str, str] | None = None


def make(federation: Federation, row: RoundRow, plan: Plan, updates: Sequence[Update]) -> Made:
    """Makes the files that follow a round from its updates, in one pass over them."""
    rules = Rules(plan.aggregation, plan.server_momentum, plan.server_adam, plan.payload)
    with federation.database.reading() as session:
        start = _start(federation, session, row, plan)
    files = federation.models.add_together(following(start, updates, rules), draft=str(row.number))
    sha256, size = files["model"]
    control = files["control"][0] if "control" in files else None
    return Made(sha256, size, control, (files["first"][0], files["second"][0]) if plan.server_adam else None)


def remember(session: Session, made: Made, number: int) -> None:
    """The rows of what is no model."""
    if made.control_sha256 and session.get(ControlRow, made.control_sha256) is None:
        session.add(ControlRow(sha256=made.control_sha256, round=number))
    if made.moments:
        session.add(MomentsRow(round=number, first_sha256=made.moments[0], second_sha256=made.moments[1]))


def tidy(federation: Federation, session: Session) -> None:
    """Removes the moments that no round can start from any more: all but the newest of each series.

    The files first: a crash in between leaves rows, and the next call repeats it.
    """
    newest = select(func.max(MomentsRow.round)).join(RoundRow, RoundRow.number == MomentsRow.round)
    kept = set(session.scalars(newest.group_by(RoundRow.series_id)))
    rows = session.scalars(select(MomentsRow)).all()
    needed = {sha256 for row in rows if row.round in kept for sha256 in (row.first_sha256, row.second_sha256)}
    for row in rows:
        if row.round not in kept:
            for sha256 in {row.first_sha256, row.second_sha256} - needed:
                if session.get(ModelRow, sha256) is None and session.get(ControlRow, sha256) is None:
                    federation.models.remove(sha256)
            session.delete(row)


def _start(federation: Federation, session: Session, row: RoundRow, plan: Plan) -> Start:
    before = _round_before(session, row)
    model, path = federation.models.path(row.model_sha256), federation.models.path
    moments = session.get(MomentsRow, before.number) if before and plan.server_adam else None
    controls = None
    if plan.algorithm == "scaffold":
        controls = Controls(
            path=_control_of(federation, row),
            reach=plan.local.steps * plan.local.learning_rate,
            known_before=_sites_known(session, before) if before else 0,
            known=_sites_known(session, row),
        )
    return Start(
        model=model,
        layout=layout_of(model),
        previous=path(before.model_sha256) if before and plan.server_momentum else None,
        moments=Moments(path(moments.first_sha256), path(moments.second_sha256)) if moments else None,
        controls=controls,
    )


def _round_before(session: Session, row: RoundRow) -> RoundRow | None:
    """The round of the same series before this one."""
    return session.scalars(
        select(RoundRow).where(RoundRow.series_id == row.series_id, RoundRow.place_in_series == row.place_in_series - 1)
    ).first()


def _sites_known(session: Session, row: RoundRow) -> int:
    """How many sites have taken part in the series, up to and with this round."""
    found = (
        select(UploadRow.site)
        .join(RoundRow)
        .where(RoundRow.series_id == row.series_id, RoundRow.number <= row.number, UploadRow.state == "accepted")
    )
    return len(set(session.scalars(found)))


def _control_of(federation: Federation, row: RoundRow) -> Path | None:
    """The control that a round's ticket names; None in the first of a series, where it is zero."""
    envelope = parse(Envelope, row.ticket.encode())
    ticket = open_envelope(envelope, Ticket, TICKET, [public_key(federation.round_key)])
    return federation.models.path(ticket.control_sha256) if ticket.control_sha256 else None
