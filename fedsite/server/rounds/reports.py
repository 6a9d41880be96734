"""Rounds and models as the coordinator sees them: plain data, ready for a table or for JSON."""

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fedsite.errors import UsageError
from fedsite.server.federation import Federation
from fedsite.server.rounds import roll, stops
from fedsite.server.rows import counted, plan_of, series_of, takes_until
from fedsite.server.store.storage import ModelRow, RoundRow, ScreenRow, SeriesRow
from fedsite.wire.plans import Plan


def rounds(federation: Federation) -> list[dict[str, Any]]:
    """Every round in one line, in order."""
    with federation.database.reading() as session:
        rows = session.scalars(select(RoundRow).order_by(RoundRow.number)).all()
        return [_summary(federation, session, row) for row in rows]


def round_report(federation: Federation, number: int) -> dict[str, Any]:
    """One round, what every site did in it (`roll.call`), and what its screen found.

    Raises UsageError when there is no such round.
    """
    with federation.database.reading() as session:
        row = session.get(RoundRow, number)
        if row is None:
            raise UsageError(f"There is no round {number}.", "See fedsite server round list.")
        report = _summary(federation, session, row) | {"federation": federation.name}
        screened = session.get(ScreenRow, number)
        return report | roll.call(session, row, federation.clock()) | {"screen": screened and _screen(screened)}


def models(federation: Federation) -> list[dict[str, Any]]:
    """Every global model, in the order in which they came, and what each was made of in a few words."""
    with federation.database.reading() as session:
        rows = session.scalars(select(ModelRow).order_by(ModelRow.created, ModelRow.round)).all()
        return [_model(federation, session, row) for row in rows]


def model_report(federation: Federation, sha256: str) -> dict[str, Any]:
    """Where a model (its whole SHA-256) comes from: the round that made it, and its line back to one that was brought.

    `made_in` is that round as `round_report` has it, None for a model that a person brought; `line` are the models
    from this one back, each with its round; `starts` names the rounds that began from it.
    """
    with federation.database.reading() as session:
        row = session.get(ModelRow, sha256)
        if row is None:
            raise UsageError("There is no such model.", "See fedsite model list.")
        report = _model(federation, session, row)
        starts = select(RoundRow.number).where(RoundRow.model_sha256 == sha256).order_by(RoundRow.number)
        report |= {"starts": list(session.scalars(starts)), "line": list(_line(session, row))}
    return report | {"made_in": row.round and round_report(federation, row.round)}


def plan_of_model(federation: Federation, sha256: str) -> Plan:
    """The plan that a model was made under, or else the first that began from it. Raises UsageError without any."""
    with federation.database.reading() as session:
        made = select(RoundRow).where(RoundRow.result_sha256 == sha256).order_by(RoundRow.number).limit(1)
        began = select(RoundRow).where(RoundRow.model_sha256 == sha256).order_by(RoundRow.number).limit(1)
        row = session.scalars(made).first() or session.scalars(began).first()
        if row is None:
            raise UsageError("No round has made this model, and none began from it: it has no plan here.")
        return plan_of(federation, series_of(session, row))


def find_model(federation: Federation, sha256: str | None, number: int | None) -> str:
    """The digest of a model named by a unique beginning of it, or by the round that made it; else UsageError."""
    with federation.database.reading() as session:
        if number is not None:
            found = session.scalars(select(RoundRow.result_sha256).where(RoundRow.number == number)).all()
        else:
            found = [one for one in session.scalars(select(ModelRow.sha256)) if sha256 and one.startswith(sha256)]
    if len(found) != 1 or found[0] is None:
        raise UsageError("There is no such model, or more than one.", "See fedsite model list.")
    return found[0]


def _model(federation: Federation, session: Session, row: ModelRow) -> dict[str, Any]:
    made = session.get(RoundRow, row.round) if row.round else None
    about: dict[str, Any] = {
        "plan": None,
        "plan_sha256": None,
        "ticket_sha256": None,
        "from_sha256": None,
        "updates": None,
    }
    if made is not None:
        summary = _summary(federation, session, made)
        about = {name: summary[name] for name in ("plan", "plan_sha256", "ticket_sha256", "updates")}
        about["from_sha256"] = made.model_sha256
    return {
        "sha256": row.sha256,
        "bytes": row.size,
        "created": row.created.isoformat(),
        "round": row.round,
        **about,
    }


def _line(session: Session, row: ModelRow) -> Iterator[dict[str, Any]]:
    """A model and those that it came of, one after the other. (What a round made may be what it began with.)"""
    model: ModelRow | None = row
    seen: set[str] = set()
    while model is not None and model.sha256 not in seen:
        seen.add(model.sha256)
        yield {"sha256": model.sha256, "round": model.round}
        made = session.get(RoundRow, model.round) if model.round else None
        model = session.get(ModelRow, made.model_sha256) if made else None


def _summary(federation: Federation, session: Session, row: RoundRow) -> dict[str, Any]:
    series = series_of(session, row)
    plan = plan_of(federation, series)
    return {
        "round": row.number,
        "plan": plan.plan,
        "plan_sha256": series.plan_sha256,
        "ticket_sha256": row.ticket_sha256,
        "place_in_series": row.place_in_series,
        "rounds_in_series": series.rounds,
        "status": row.status,
        "reason": row.reason,
        "updates": len(counted(session, row.number)),
        "series": _series(series),
        "step": _step(session, row, plan),
        "quorum": plan.rounds.quorum,
        "enough": plan.rounds.enough,
        "opened": row.opened.isoformat(),
        "expires": row.expires.isoformat(),
        "takes_until": takes_until(plan, row).isoformat(),
        "closed": row.closed and row.closed.isoformat(),
        "model_sha256": row.model_sha256,
        "result_sha256": row.result_sha256,
    }


def _series(row: SeriesRow) -> dict[str, Any]:
    """Whether the series goes on by itself; if not, since when and why."""
    return {
        "state": row.state,
        "reason": row.reason,
        "since": row.changed.isoformat(),
        "withheld": row.withheld,
    }


def _step(session: Session, row: RoundRow, plan: Plan) -> dict[str, Any] | None:
    """How far the model moved, where the plan's rule for stopping looks at it, and whether that tells anything."""
    if row.step_norm is None:
        return None
    return {"norm": row.step_norm, "values": row.step_values, "judged": stops.judged(session, row, plan)}


def _screen(row: ScreenRow) -> dict[str, Any]:
    """What the round's screen found, and what became of it."""
    held = row.held_until and row.held_until.isoformat()
    return {**json.loads(row.verdict), "held_until": held, "decision": row.decision}
