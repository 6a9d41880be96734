"""Rounds: open -> closing -> (held ->) aggregated | failed.

A round closes at once when the plan's `enough` updates are in, else at its deadline if `quorum` are; it fails at a
deadline without quorum, and its series ends with it: sites have paid privacy for nothing, so a person should look
before they pay again. A closing round goes through the plan's screen, if it has one, which may leave updates out or
hold the round for a person, but never for longer than the plan says. `advance` brings every round to where it must be;
whoever calls it, and however often it is killed, the outcome is the same.
"""

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from fedsite.errors import ConfigurationError, DataNotFit, SourceMissing, UsageError
from fedsite.files import PRIVATE_FILE
from fedsite.server import making, screen
from fedsite.server.aggregation import Update
from fedsite.server.federation import Federation
from fedsite.server.making import Made
from fedsite.server.storage import ModelRow, RoundRow, ScreenRow, SeriesRow, UploadRow
from fedsite.wire.messages import Envelope, MalformedMessage, Ticket, parse
from fedsite.wire.norms import largest_honest_norm
from fedsite.wire.payload import check_finite, layout_of
from fedsite.wire.plans import Plan, PlanDraft, complete
from fedsite.wire.signing import PLAN, TICKET, digest, open_envelope, public_key, sign

LONGEST_TURN = 600.0
UNFINISHED = ("open", "closing", "held")

log = logging.getLogger("fedsite.server")


def open_series(federation: Federation, draft: PlanDraft, model: Path, rounds: int) -> RoundRow:
    """Signs the plan, stores the model and opens the first of a series of rounds.

    One series runs at a time: sites follow one chain of tickets, forwards only. Raises UsageError while a round is
    open, or for a plan of SCAFFOLD that has run before; ConfigurationError when the plan is another federation's, has
    expired or admits no honest update, SourceMissing and DataNotFit when the model is not there or is no float32 model
    file.
    """
    now = federation.clock()
    if draft.federation != federation.name:
        raise ConfigurationError(f"The plan is for the federation {draft.federation!r}, this is {federation.name!r}.")
    if draft.expires <= now:
        raise ConfigurationError(f"The plan expired on {draft.expires}.", "Set `expires` to a later date.")
    _check_norm(draft, _check_model(model))
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
        if row is not None and row.status == "held":
            raise UsageError(f"Round {number} is closed, and held by its screen.", _how_it_ends(row))
        if row is None or row.status not in ("open", "closing"):
            raise UsageError(f"Round {number} is not open.", "See fedsite server round list.")
        if row.status == "open":
            _close(federation, session, row, "closed by the coordinator")
    return _seen_through(federation, number)


def release(federation: Federation, number: int, without: Sequence[str]) -> RoundRow:
    """Ends the wait of a round that its screen holds, and sees it through: with all updates, or without those of some
    sites. Raises UsageError when the round is not held, or has no update of such a site.
    """
    with federation.database.writing() as session:
        row = session.get(RoundRow, number)
        if row is None or row.status != "held":
            raise UsageError(f"Round {number} is not held.", "See fedsite server round list.")
        strangers = set(without) - {one.site for one in accepted(session, number)}
        if strangers:
            raise UsageError(f"Round {number} has no update of {', '.join(sorted(strangers))}.")
        _decide(federation, session, row, sorted(set(without)), "released by the coordinator")
    return _seen_through(federation, number)


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
                _end_what_is_due(federation, session, _round(session, number))
            _screen(federation, number)
            _aggregate(federation, number)
        tidy(federation)


def tidy(federation: Federation) -> None:
    """Removes what no round needs any more: what sites have sent (for a failed round it is kept), and old moments."""
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
    with federation.database.writing() as session:
        making.tidy(federation, session)


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


def counted(session: Session, number: int) -> Sequence[UploadRow]:
    """Those of them that a round's model is made of: all but what its screen, or a person, has left out."""
    found = session.get(ScreenRow, number)
    left_out = found.left_out.splitlines() if found else []
    return [one for one in accepted(session, number) if one.site not in left_out]


def series_of(session: Session, row: RoundRow) -> SeriesRow:
    """The series that a round belongs to."""
    return session.scalars(select(SeriesRow).where(SeriesRow.id == row.series_id)).one()


def running(session: Session) -> RoundRow | None:
    """The round that has not ended: one at a time, None between two series."""
    return session.scalars(select(RoundRow).where(RoundRow.status.in_(UNFINISHED))).first()


def _refuse_while_open(session: Session) -> None:
    if row := running(session):
        raise UsageError(f"Round {row.number} has not ended.", f"Wait for it, or end it first: {_how_it_ends(row)}")


def _how_it_ends(row: RoundRow) -> str:
    if row.status == "held":
        return f"fedsite server round release {row.number}, with --without SITE for each update to leave out"
    return f"fedsite server round close {row.number}"


def _refuse_a_second_time(session: Session, plan: Plan, plan_sha256: str) -> None:
    """To the sites a plan that another one has replaced is a replay. And a site's control belongs to a plan: the zero
    that a second series begins with would not be the sites' mean.
    """
    run = session.scalars(select(SeriesRow.plan_sha256).order_by(SeriesRow.id)).all()
    again = plan_sha256 in run
    if again and run[-1] != plan_sha256:
        raise UsageError(
            "This plan has run before, and another one since: the sites would take it for a replay.",
            "Give the plan another name (plan: ...).",
        )
    if again and plan.algorithm == "scaffold":
        raise UsageError(
            "This plan has run before, and the sites still hold their controls of it.",
            "Give the plan another name (plan: ...): then all controls begin at zero.",
        )


def _round(session: Session, number: int) -> RoundRow:
    return session.scalars(select(RoundRow).where(RoundRow.number == number)).one()


def _seen_through(federation: Federation, number: int) -> RoundRow:
    advance(federation, patient=True)
    with federation.database.reading() as session:
        return _round(session, number)


def _pending(federation: Federation) -> list[int]:
    """The rounds that `advance` has something to do for."""
    with federation.database.reading() as session:
        rows = session.scalars(select(RoundRow).where(RoundRow.status.in_(UNFINISHED))).all()
        return [row.number for row in rows if row.status == "closing" or _why_due(federation, session, row)]


def _why_due(federation: Federation, session: Session, row: RoundRow) -> str:
    """Why an open or held round must go on now; empty when it need not."""
    if row.status == "held":
        held = session.get(ScreenRow, row.number)
        over = held is None or held.held_until is None or held.held_until <= federation.clock()
        return "nobody has decided in time" if over else ""
    enough = plan_of(federation, series_of(session, row)).rounds.enough
    if enough is not None and len(accepted(session, row.number)) >= enough:
        return "enough updates"
    return "deadline" if row.expires <= federation.clock() else ""


def _end_what_is_due(federation: Federation, session: Session, row: RoundRow) -> None:
    """Closes an open round, or ends the wait of a held one: then its conspicuous updates are left out."""
    why = _why_due(federation, session, row) if row.status in ("open", "held") else ""
    if why and row.status == "open":
        _close(federation, session, row, why)
    elif why:
        _decide(federation, session, row, screen.conspicuous(json.loads(_screened(session, row).verdict)), why)


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


def _screen(federation: Federation, number: int) -> None:
    """Looks at the updates of a closing round, once: what is found is durable before anything is made of them."""
    with federation.database.reading() as session:
        row = _round(session, number)
        plan, done = plan_of(federation, series_of(session, row)), session.get(ScreenRow, number)
        updates = {one.site: update_path(federation, one.id) for one in accepted(session, number)}
    if row.status != "closing" or plan.screen is None or done is not None:
        return
    layout = layout_of(federation.models.path(row.model_sha256)).encoded(plan.payload)
    verdict = screen.examine(updates, layout, plan, plan.screen)
    with federation.database.writing() as session:
        row, found = _round(session, number), ScreenRow(round=number, verdict=json.dumps(verdict))
        session.add(found)
        flagged = screen.conspicuous(verdict)
        if flagged and plan.screen.rule == "hold":
            row.status, found.held_until = "held", federation.clock() + timedelta(seconds=plan.screen.hold_seconds)
        elif flagged and plan.screen.rule == "drop":
            _decide(federation, session, row, flagged, "dropped by the plan's screen")
    log.info("round %d: its screen finds %d of %d updates conspicuous", number, len(flagged), len(updates))


def _decide(federation: Federation, session: Session, row: RoundRow, without: Sequence[str], why: str) -> None:
    """What becomes of the conspicuous updates; the round goes on if a quorum is left, and fails otherwise."""
    found = _screened(session, row)
    found.left_out, found.decision = "\n".join(without), why
    quorum = plan_of(federation, series_of(session, row)).rounds.quorum
    count = len(accepted(session, row.number)) - len(without)
    row.status = "closing" if count >= quorum else "failed"
    row.reason += f"; {why}: without {', '.join(without) or 'nobody'}, {count} updates"
    log.info("round %d is %s (%s)", row.number, row.status, row.reason)


def _screened(session: Session, row: RoundRow) -> ScreenRow:
    session.flush()
    return session.scalars(select(ScreenRow).where(ScreenRow.round == row.number)).one()


def _aggregate(federation: Federation, number: int) -> None:
    """Makes a closing round's model, then in one transaction names it and opens the next round of the series."""
    with federation.database.reading() as session:
        row = _round(session, number)
        series, uploads = series_of(session, row), counted(session, number)
    if row.status != "closing":
        return
    plan = plan_of(federation, series)
    updates = [Update(update_path(federation, one.id), one.weight) for one in uploads]
    made = making.make(federation, row, plan, updates)
    with federation.database.writing() as session:
        _remember(session, made, federation.clock(), number)
        row = _round(session, number)
        row.status, row.result_sha256 = "aggregated", made.model_sha256
        if row.place_in_series < series.rounds and plan.expires > federation.clock():
            _open_round(federation, session, series, row.place_in_series + 1, made)
    log.info("round %d is aggregated from %d updates", number, len(updates))


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
    if number is not None:
        making.remember(session, made, number)
    session.flush()


def _check_norm(draft: PlanDraft, values: int) -> None:
    """Sites would refuse to pay for updates that are not admitted."""
    least = largest_honest_norm(draft, values)
    if draft.max_update_norm < least:
        raise ConfigurationError(
            f"max_update_norm: {draft.max_update_norm:g} is below the norm that an honest update of this plan may have,"
            " and no site would take part.",
            f"Set it to {math.ceil(least * 1000) / 1000:.3f} or more.",
        )


def _check_model(model: Path) -> int:
    """How many values it has."""
    try:
        layout = layout_of(model)
        check_finite(model, layout)
    except OSError as error:
        raise SourceMissing(f"The model {model} cannot be read: {error.strerror}.") from error
    except MalformedMessage as error:
        raise DataNotFit(f"{model} is no model file: {error}.", "Make one with fedsite model init.") from error
    if layout.encoding != "float32":
        raise DataNotFit(f"{model} holds {layout.encoding} values.", "A global model is float32.")
    return layout.values


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
