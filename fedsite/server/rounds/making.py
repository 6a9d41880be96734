"""What a round makes of its updates: the files that the next one starts from.

Everything comes from stored files and rows, so a crash simply repeats it, byte for byte: the velocity of a momentum is
what the model moved by in the round before, FedAdam's moments and SCAFFOLD's control are files that it has made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedsite.server.federation import Federation
from fedsite.server.rounds.aggregation import SLICE, Controls, Moments, Rules, Start, Update, following
from fedsite.server.store.storage import ControlRow, ModelRow, MomentsRow, RoundRow, UploadRow
from fedsite.wire.messages import Envelope, Ticket, parse
from fedsite.wire.payload import Layout, chunks, layout_of, read_values
from fedsite.wire.plans import Plan
from fedsite.wire.signing import TICKET, open_envelope, public_key


@dataclass(frozen=True)
class Step:
    """How far a model lies from the one before, and how many of their values differ."""

    norm: float
    values: int


@dataclass(frozen=True)
class Made:
    """What a round starts from, by digest: the model (and its size), the server's control, moments.

    `step` is measured where the plan's rule for stopping asks for it.
    """

    model_sha256: str
    model_bytes: int
    control_sha256: str | None = None
    moments: tuple[str, str] | None = None
    step: Step | None = None


def make(federation: Federation, row: RoundRow, plan: Plan, updates: Sequence[Update]) -> Made:
    """Makes the files that follow a round from its updates, in one pass over them."""
    rules = Rules(plan.aggregation, plan.server_momentum, plan.server_adam, plan.payload)
    with federation.database.reading() as session:
        start = _start(federation, session, row, plan)
    files = federation.models.add_together(following(start, updates, rules))
    sha256, size = files["model"]
    return Made(
        model_sha256=sha256,
        model_bytes=size,
        control_sha256=files["control"][0] if "control" in files else None,
        moments=(files["first"][0], files["second"][0]) if plan.server_adam else None,
        step=step(start.model, federation.models.path(sha256), start.layout) if plan.stop.small_steps else None,
    )


def step(before: Path, after: Path, layout: Layout) -> Step:
    """From one model to another of the same form; the norm in float64."""
    squares, values = [], 0
    for part in chunks(layout.values, SLICE):
        moved = np.subtract(*(read_values(path, layout, part) for path in (after, before)), dtype=np.float64)
        squares.append(float(moved @ moved))
        values += int(np.count_nonzero(moved))
    return Step(math.sqrt(math.fsum(squares)), values)


def remember(session: Session, made: Made, now: datetime, number: int | None = None) -> None:
    """The rows of what a round has made, or of the model that a person brought (`number` None).

    The same bytes may come twice (an update of zeros); the first origin stays.
    """
    if session.get(ModelRow, made.model_sha256) is None:
        session.add(ModelRow(sha256=made.model_sha256, size=made.model_bytes, created=now, round=number))
    if made.control_sha256 and number and session.get(ControlRow, made.control_sha256) is None:
        session.add(ControlRow(sha256=made.control_sha256, round=number))
    if made.moments and number:
        session.add(MomentsRow(round=number, first_sha256=made.moments[0], second_sha256=made.moments[1]))
    session.flush()


def outcome(federation: Federation, session: Session, row: RoundRow) -> Made:
    """What the round after this one starts from: what this one has made, or, without a model, what it started from."""
    made = row.status == "aggregated"
    sha256 = row.result_sha256 if made and row.result_sha256 else row.model_sha256
    model = session.scalars(select(ModelRow).where(ModelRow.sha256 == sha256)).one()
    return Made(sha256, model.size, row.control_sha256 if made else _control_of(federation, row))


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
            path=path(control) if (control := _control_of(federation, row)) else None,
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
    """The last round of the same series before this one that has made a model."""
    made = RoundRow.series_id == row.series_id, RoundRow.number < row.number, RoundRow.status == "aggregated"
    return session.scalars(select(RoundRow).where(*made).order_by(RoundRow.number.desc()).limit(1)).first()


def _sites_known(session: Session, row: RoundRow) -> int:
    """How many sites have taken part in the series, up to and with this round."""
    found = (
        select(UploadRow.site)
        .join(RoundRow)
        .where(RoundRow.series_id == row.series_id, RoundRow.number <= row.number, UploadRow.state == "accepted")
    )
    return len(set(session.scalars(found)))


def _control_of(federation: Federation, row: RoundRow) -> str | None:
    """The control that a round's ticket names; None in the first of a series, where it is zero."""
    envelope = parse(Envelope, row.ticket.encode())
    return open_envelope(envelope, Ticket, TICKET, [public_key(federation.round_key)]).control_sha256
