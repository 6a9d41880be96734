"""Series: the rounds of one plan, one after the other, by themselves; one series at a time.

    running -> ended
    running <-> paused -> ended

`running`: it has an unfinished round. `paused`: what was open goes on, and nothing opens until a person resumes it; a
person paused it, or a round has failed or was aborted: sites have paid privacy for nothing, so somebody should look
before they pay again. `ended`: all rounds are over, the plan expired or stopped it, or another series was opened.

Each change is one transaction, and that which ends a round also says what follows (`go_on`): a kill leaves no series
between two of its rounds.
"""

import logging
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedsite.errors import ConfigurationError, DataNotFit, SourceMissing, UsageError
from fedsite.server.federation import Federation
from fedsite.server.rounds import making, stops
from fedsite.server.rounds.making import Made
from fedsite.server.rows import UNSUCCESSFUL, accepted, plan_of, running, series_of
from fedsite.server.store.storage import RoundRow, SeriesRow
from fedsite.wire.messages import MalformedMessage, Ticket
from fedsite.wire.norms import largest_honest_norm
from fedsite.wire.payload import check_finite, layout_of
from fedsite.wire.plans import Plan, PlanDraft, complete
from fedsite.wire.signing import PLAN, TICKET, digest, public_key, sign

ANOTHER = "See fedsite model list, and open another: fedsite server round open."

log = logging.getLogger("fedsite.server")


def open_series(federation: Federation, draft: PlanDraft, model: Path, rounds: int) -> RoundRow:
    """Signs the plan, stores the model and opens the first of a series of rounds; a paused series ends with that.

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
    sha256, size = federation.models.add(_blocks(model))
    with federation.database.writing() as session:
        _refuse_while_open(session)
        _refuse_a_second_time(session, plan, digest(envelope))
        before = _newest(session)
        if before is not None and before.state == "paused":
            _become(federation, before, "ended", "another series was opened")
        made = Made(sha256, size)
        making.remember(session, made, now)
        series = SeriesRow(plan_sha256=digest(envelope), plan=envelope.to_bytes().decode(), rounds=rounds, changed=now)
        session.add(series)
        session.flush()
        return _open_round(federation, session, series, 1, made)


def pause(federation: Federation, *, after_this_round: bool) -> SeriesRow:
    """Opens no further round until `resume`. The open one goes on to its deadline, which sites hold signed.

    It is still given to those that have had it: they may have paid for it. To others only `after_this_round`. Raises
    UsageError when nothing runs.
    """
    with federation.database.writing() as session:
        series = _newest(session)
        if series is None or running(session) is None:
            raise _does_not_run(series)
        series.withheld = not after_this_round
        _become(federation, series, "paused", "paused by the coordinator")
    return series


def resume(federation: Federation) -> RoundRow:
    """Lets the paused series go on: gives its unfinished round, or opens the next from its last model.

    Raises UsageError when it is not paused, or its plan has expired.
    """
    with federation.database.writing() as session:
        series = _newest(session)
        if series is None or series.state == "ended":
            raise _does_not_run(series)
        if series.state == "running":
            raise UsageError("The series is not paused.", "See fedsite server round list.")
        row = running(session)
        if row is None and (expired := _expired(federation, plan_of(federation, series))):
            raise UsageError(f"The series cannot go on: {expired}.", ANOTHER)
        _become(federation, series, "running", "")
        return row or _open_next(federation, session, series)


def go_on(federation: Federation, session: Session, row: RoundRow) -> None:
    """What follows a round, in the transaction that ends it: the next one, a pause, or the series' end."""
    session.flush()
    series = series_of(session, row)
    if ended := _why_ended(federation, session, series, row):
        _become(federation, series, "ended", ended)
    elif paused := _why_paused(federation, session, series, row):
        _become(federation, series, "paused", paused)
    elif series.state == "running":
        _open_next(federation, session, series)


def _newest(session: Session) -> SeriesRow | None:
    return session.scalars(select(SeriesRow).order_by(SeriesRow.id.desc()).limit(1)).first()


def _does_not_run(series: SeriesRow | None) -> UsageError:
    if series is None:
        return UsageError("No series was ever opened.", "Open one: fedsite server round open.")
    mend = "To go on: fedsite server round resume" if series.state == "paused" else ANOTHER
    return UsageError(f"The series is {series.state} already: {series.reason}.", mend)


def _become(federation: Federation, series: SeriesRow, state: str, reason: str) -> None:
    series.state, series.reason, series.changed = state, reason, federation.clock()
    series.withheld = series.withheld and state == "paused"
    log.info("series %d is %s%s", series.id, state, f" ({reason})" if reason else "")


def _why_ended(federation: Federation, session: Session, series: SeriesRow, row: RoundRow) -> str:
    """Why no round can follow; empty when one can."""
    plan = plan_of(federation, series)
    if plan.algorithm == "scaffold" and row.status in UNSUCCESSFUL and accepted(session, row.number):
        return f"sites have put updates of round {row.number} into their controls that are in no model"
    if row.place_in_series >= series.rounds:
        return "all of its rounds are over"
    return stops.why_over(session, series, plan) or _expired(federation, plan)


def _why_paused(federation: Federation, session: Session, series: SeriesRow, row: RoundRow) -> str:
    """Why a person should look before the next round; empty when nobody need."""
    if row.status == "aborted":
        return f"round {row.number} was aborted"
    failed = _failed_in_a_row(session, series)
    if failed < plan_of(federation, series).stop.failed_rounds or not failed:
        return ""
    return f"round {row.number} failed{f', number {failed} in a row' if failed > 1 else ''}"


def _expired(federation: Federation, plan: Plan) -> str:
    return "its plan has expired" if plan.expires <= federation.clock() else ""


def _failed_in_a_row(session: Session, series: SeriesRow) -> int:
    """How many of the newest rounds of a series have failed, none between them that did not."""
    own = select(func.coalesce(func.max(RoundRow.number), 0)).where(
        RoundRow.series_id == series.id, RoundRow.status != "failed"
    )
    since = select(func.count()).where(RoundRow.series_id == series.id, RoundRow.number > own.scalar_subquery())
    return session.scalars(since).one()


def _open_next(federation: Federation, session: Session, series: SeriesRow) -> RoundRow:
    """The round after the last, from what that one has made, or else from what it started from."""
    last = select(RoundRow).where(RoundRow.series_id == series.id).order_by(RoundRow.number.desc()).limit(1)
    row = session.scalars(last).one()
    return _open_round(federation, session, series, row.place_in_series + 1, making.outcome(federation, session, row))


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


def _refuse_while_open(session: Session) -> None:
    if row := running(session):
        raise UsageError(f"Round {row.number} has not ended.", f"Wait for it, or end it first: {how_it_ends(row)}")


def how_it_ends(row: RoundRow) -> str:
    """The command by which a person ends an unfinished round."""
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
