"""Rounds: open -> closing -> aggregated | failed.

A round closes at once when the plan's `enough` updates are in, else at its deadline if `quorum` are; it fails at a
deadline without quorum, and its series ends with it: sites have paid privacy for nothing, so a person should look
before they pay again. `advance` brings every round to where it must be; whoever calls it, and however often it is
killed, the outcome is the same.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from fedsite.errors import ConfigurationError, DataNotFit, SourceMissing, UsageError
from fedsite.files import PRIVATE_FILE
from fedsite.server.aggregation import Controls, Update, average, next_control
from fedsite.server.federation import Federation
from fedsite.server.storage import ControlRow, ModelRow, RoundRow, SeriesRow, UploadRow
from fedsite.wire.messages import Envelope, MalformedMessage, Ticket, parse
from fedsite.wire.payload import chunks, layout_of, read_values
from fedsite.wire.plans import Plan, PlanDraft, complete
from fedsite.wire.signing import PLAN, TICKET, digest, open_envelope, public_key, sign

LONGEST_TURN = 600.0

log = logging.getLogger("fedsite.server")


@dataclass(frozen=True)
class Made:
    """What a round starts from, by digest: the model, its size, and the server's control where the plan has one."""

    model_sha256: str
    model_bytes: int
    control_sha256: str | None = None


def open_series(federation: Federation, draft: PlanDraft, model: Path, rounds: int) -> RoundRow:
    """Signs the plan, stores the model and opens the first of a series of rounds.

    One series runs at a time: sites follow one chain of tickets, forwards only. Raises UsageError while a round is
    open, or for a plan of SCAFFOLD that has run before; ConfigurationError when the plan is another federation's or has
    expired, SourceMissing and DataNotFit when the model is not there or is no float32 model file.
    """
    now = federation.clock()
    if draft.federation != federation.name:
        raise ConfigurationError(f"The plan is for the federation {draft.federation!r}, this is {federation.name!r}.")
    if draft.expires <= now:
        raise ConfigurationError(f"The plan expired on {draft.expires}.", "Set `expires` to a later date.")
    _check_model(model)
    plan = complete(draft, public_key(federation.round_key), public_key(federation.receipt_key))
    envelope = sign(plan.to_bytes(), PLAN, [federation.plan_key])
    sha256, size = federation.models.add(_blocks(model), f"model.{os.getpid()}")
    with federation.database.writing() as session:
        _refuse_while_open(session)
        _refuse_a_second_time(session, plan, digest(envelope))
        made = Made(sha256, size)
        _remember(session, made, now)
        series = SeriesRow(plan_sha256=digest(envelope), plan=envelope.to_bytes().decode(), rounds=rounds)
        session.add(series)
        session.flush()
        return _open_round(federation, session, series, 1, made)


def close_now(federation: Federation, number: int) -> RoundRow:
    """Closes an open round before its deadline, by the deadline's rule, and sees it through."""
    with federation.database.writing() as session:
        row = session.get(RoundRow, number)
        if row is None or row.status not in ("open", "closing"):
            raise UsageError(f"Round {number} is not open.", "See fedsite server round list.")
        if row.status == "open":
            _close(federation, session, row, "closed by the coordinator")
    advance(federation, patient=True)
    with federation.database.reading() as session:
        return _round(session, number)


def advance(federation: Federation, *, patient: bool = False) -> None:
    """Closes what is due, aggregates what is closing, opens what follows. Idempotent; costs one query when idle.

    One process at a time does it: the others come back at once, or wait for their turn when `patient`.
    """
    if not _pending(federation):
        return
    with _alone(federation.folder / "advance.lock", patient=patient) as alone:
        if not alone:
            return
        for number in _pending(federation):
            with federation.database.writing() as session:
                row = _round(session, number)
                _close_if_due(federation, session, row)
            if row.status == "closing":
                _aggregate(federation, row)
        tidy(federation)


def tidy(federation: Federation) -> None:
    """Removes what sites have sent for rounds that need it no more (those of a failed round are kept)."""
    folders = [federation.folder / "incoming", federation.folder / "updates"]
    files = [path for folder in folders for path in folder.iterdir()]  # before the rows: a file comes after its row
    needed = or_(
        and_(UploadRow.state == "receiving", RoundRow.status == "open"),
        and_(UploadRow.state == "accepted", RoundRow.status != "aggregated"),
    )
    with federation.database.reading() as session:
        kept = set(session.scalars(select(UploadRow.id).join(RoundRow).where(needed)))
    for path in files:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def plan_of(federation: Federation, series: SeriesRow) -> Plan:
    """The plan of a series."""
    return open_envelope(envelope_of(series.plan), Plan, PLAN, [public_key(federation.plan_key)])


def envelope_of(text: str) -> Envelope:
    """An envelope as it is stored."""
    return parse(Envelope, text.encode())


def update_path(federation: Federation, upload_id: str) -> Path:
    """Where an accepted update lies until its round is aggregated."""
    return federation.folder / "updates" / upload_id


def accepted(session: Session, number: int) -> Sequence[UploadRow]:
    """The updates of a round that have their receipt, by site: the order in which they are summed."""
    found = select(UploadRow).where(UploadRow.round == number, UploadRow.state == "accepted")
    return session.scalars(found.order_by(UploadRow.site)).all()


def series_of(session: Session, row: RoundRow) -> SeriesRow:
    """The series that a round belongs to."""
    return session.scalars(select(SeriesRow).where(SeriesRow.id == row.series_id)).one()


def running(session: Session) -> RoundRow | None:
    """The round that is open or closing: one at a time, None between two series."""
    return session.scalars(select(RoundRow).where(RoundRow.status.in_(("open", "closing")))).first()


def _refuse_while_open(session: Session) -> None:
    if row := running(session):
        raise UsageError(
            f"Round {row.number} has not ended.",
            f"Wait for it, or end it first: fedsite server round close {row.number}",
        )


def _refuse_a_second_time(session: Session, plan: Plan, plan_sha256: str) -> None:
    """A site's control belongs to a plan: the zero that a second series begins with would not be the sites' mean."""
    again = session.scalars(select(SeriesRow.id).where(SeriesRow.plan_sha256 == plan_sha256)).first() is not None
    if again and plan.algorithm == "scaffold":
        raise UsageError(
            "This plan has run before, and the sites still hold their controls of it.",
            "Give the plan another name (plan: ...): then all controls begin at zero.",
        )


def _round(session: Session, number: int) -> RoundRow:
    return session.scalars(select(RoundRow).where(RoundRow.number == number)).one()


def _pending(federation: Federation) -> list[int]:
    """The rounds that `advance` has something to do for."""
    with federation.database.reading() as session:
        rows = session.scalars(select(RoundRow).where(RoundRow.status.in_(["open", "closing"]))).all()
        return [row.number for row in rows if row.status == "closing" or _why_due(federation, session, row)]


def _why_due(federation: Federation, session: Session, row: RoundRow) -> str:
    """Why an open round must close now; empty when it need not."""
    enough = plan_of(federation, series_of(session, row)).rounds.enough
    if enough is not None and len(accepted(session, row.number)) >= enough:
        return "enough updates"
    return "deadline" if row.expires <= federation.clock() else ""


def _close_if_due(federation: Federation, session: Session, row: RoundRow) -> None:
    if row.status == "open" and (why := _why_due(federation, session, row)):
        _close(federation, session, row, why)


def _close(federation: Federation, session: Session, row: RoundRow, why: str) -> None:
    """From here on nothing is accepted for the round."""
    quorum = plan_of(federation, series_of(session, row)).rounds.quorum
    count = len(accepted(session, row.number))
    row.status = "closing" if count >= quorum else "failed"
    row.reason = f"{why}: {count} updates, quorum {quorum}"
    row.closed = federation.clock()
    unfinished = update(UploadRow).where(UploadRow.round == row.number, UploadRow.state == "receiving")
    session.execute(unfinished.values(state="late"))
    log.info("round %d is %s (%s)", row.number, row.status, row.reason)


def _aggregate(federation: Federation, row: RoundRow) -> None:
    """Makes the round's model, then in one transaction names it and opens the next round of the series."""
    with federation.database.reading() as session:
        series = series_of(session, row)
        uploads = accepted(session, row.number)
    plan = plan_of(federation, series)
    updates = [Update(update_path(federation, one.id), one.weight) for one in uploads]
    made = _make(federation, row, plan, updates)
    with federation.database.writing() as session:
        _remember(session, made, federation.clock(), row.number)
        row = _round(session, row.number)
        row.status, row.result_sha256 = "aggregated", made.model_sha256
        if row.place_in_series < series.rounds and plan.expires > federation.clock():
            _open_round(federation, session, series, row.place_in_series + 1, made)
    log.info("round %d is aggregated from %d updates", row.number, len(updates))


def _make(federation: Federation, row: RoundRow, plan: Plan, updates: Sequence[Update]) -> Made:
    """The files that the next round starts from. Everything comes from stored files and rows, so a crash repeats it:
    the velocity of a momentum is what the model moved by in the round before.
    """
    model = federation.models.path(row.model_sha256)
    layout, previous = layout_of(model), None
    with federation.database.reading() as session:
        before = _round_before(session, row)
        if plan.server_momentum and before:
            previous = federation.models.path(before.model_sha256)
        known_before = _sites_known(session, before) if before else 0
        controls = Controls(
            path=_control_of(federation, row),
            reach=plan.local.steps * plan.local.learning_rate,
            known_before=known_before,
            known=_sites_known(session, row),
        )
    blocks = average(model, layout, updates, plan.payload, plan.server_momentum, previous)
    sha256, size = federation.models.add(blocks, draft=f"round.{row.number}")
    if plan.algorithm != "scaffold":
        return Made(sha256, size)
    blocks = next_control(controls, layout, updates, plan.payload)
    return Made(sha256, size, federation.models.add(blocks, draft=f"control.{row.number}")[0])


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
    ticket = open_envelope(envelope_of(row.ticket), Ticket, TICKET, [public_key(federation.round_key)])
    return federation.models.path(ticket.control_sha256) if ticket.control_sha256 else None


def _open_round(federation: Federation, session: Session, series: SeriesRow, place: int, made: Made) -> RoundRow:
    plan, now = plan_of(federation, series), federation.clock()
    last = session.scalars(select(RoundRow).order_by(RoundRow.number.desc()).limit(1)).first()
    ticket = Ticket(
        federation=federation.name,
        plan_sha256=series.plan_sha256,
        round=last.number + 1 if last else 1,
        previous_ticket=last.ticket_sha256 if last else None,
        model_sha256=made.model_sha256,
        model_bytes=made.model_bytes,
        control_sha256=made.control_sha256,
        opened=now,
        expires=min(now + timedelta(seconds=plan.rounds.deadline_seconds), plan.expires),
    )
    envelope = sign(ticket.to_bytes(), TICKET, [federation.round_key])
    row = RoundRow(
        number=ticket.round,
        series_id=series.id,
        place_in_series=place,
        ticket=envelope.to_bytes().decode(),
        ticket_sha256=digest(envelope),
        model_sha256=ticket.model_sha256,
        opened=ticket.opened,
        expires=ticket.expires,
    )
    session.add(row)
    log.info("round %d is open until %s", row.number, row.expires)
    return row


def _remember(session: Session, made: Made, now: datetime, number: int | None = None) -> None:
    """The same bytes may come twice (an update of zeros); the first origin stays."""
    if session.get(ModelRow, made.model_sha256) is None:
        session.add(ModelRow(sha256=made.model_sha256, size=made.model_bytes, created=now, round=number))
    if made.control_sha256 and number and session.get(ControlRow, made.control_sha256) is None:
        session.add(ControlRow(sha256=made.control_sha256, round=number))
    session.flush()


def _check_model(model: Path) -> None:
    try:
        layout = layout_of(model)
    except OSError as error:
        raise SourceMissing(f"The model {model} cannot be read: {error.strerror}.") from error
    except MalformedMessage as error:
        raise DataNotFit(f"{model} is no model file: {error}.", "Make one with fedsite model init.") from error
    if layout.encoding != "float32":
        raise DataNotFit(f"{model} holds {layout.encoding} values.", "A global model is float32.")
    if not all(np.isfinite(read_values(model, layout, part)).all() for part in chunks(layout.values)):
        raise DataNotFit(f"{model} holds values that are not finite.", "Make one with fedsite model init.")


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


@contextmanager
def _alone(path: Path, *, patient: bool) -> Iterator[bool]:
    """Holds the folder's lock (True), or tells that another process does (False); patient, after ten minutes."""
    end = time.monotonic() + (LONGEST_TURN if patient else 0.0)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE), "rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    yield False
                    return
                time.sleep(0.05)
        yield True
