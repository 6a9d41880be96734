"""Rounds: open -> closing -> (held ->) aggregated | failed; aborted by a person from anywhere before its end.

A round closes at once when the plan's `enough` updates are in, else at its deadline if `quorum` are (an update whose
upload has begun may have the plan's `grace_seconds` to end); it fails at a deadline without quorum. A closing round
goes through the plan's screen, if it has one, which may leave updates out or hold the round for a person, but never for
longer than the plan says. `advance` brings every round to where it must be; whoever calls it, and however often it is
killed, the outcome is the same. What follows a round is the series' business (`series.go_on`).

All boundaries between durable states, each one transaction; a kill between two of them, or before one commits, is
mended by the next `advance` (or by the site, that comes again):

    1. `series.open_series`: series and its first round `open` (the model's file before it)
    2. `uploads`: an update announced; its bytes, every 8 MiB; accepted with its receipt (its file before it)
    3. `_close`: `closing`, or `failed` and what follows; unfinished updates late
    4. `_screen`: the verdict, and with it `held`, or what is left out (and `failed` and what follows)
    5. `_decide`, by a person or by time: `held` -> `closing`, or `failed` and what follows
    6. `_aggregate`: `aggregated`, the model's row, and what follows: the next round `open`, a pause, or the series' end
       (the model's file before it)
    7. `tidy`: rows of moments that nothing starts from; files of updates that nothing needs (each file for itself)
    8. `abort`: `aborted` and the pause; `series.pause`, `series.resume` (with the next round `open`)
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from fedsite.errors import TryAgainLater, UsageError
from fedsite.files import PRIVATE_FILE
from fedsite.server.federation import Federation
from fedsite.server.rounds import making, screen, series
from fedsite.server.rounds.aggregation import Update
from fedsite.server.rows import (
    UNFINISHED,
    accepted,
    arrived,
    counted,
    kept_updates,
    plan_of,
    round_of,
    series_of,
    takes_until,
    update_path,
)
from fedsite.server.store.storage import RoundRow, ScreenRow, UploadRow
from fedsite.wire.payload import layout_of
from fedsite.wire.plans import Plan

LONGEST_TURN = 600.0

log = logging.getLogger("fedsite.server")


def close_now(federation: Federation, number: int, without: Sequence[str] = ()) -> RoundRow:
    """Closes an open round before its deadline, by the deadline's rule, and sees it through; the updates of some sites
    may be left out.

    Raises UsageError when the round is not open, has no update of such a site, or its plan leaves none out.
    """
    with federation.database.writing() as session:
        row = session.get(RoundRow, number)
        if row is not None and row.status == "held":
            raise UsageError(f"Round {number} is closed, and held by its screen.", series.how_it_ends(row))
        if row is None or row.status not in ("open", "closing"):
            raise UsageError(f"Round {number} is not open.", "See fedsite server round list.")
        if row.status == "closing" and without:
            raise UsageError(f"Round {number} is closed already; nothing can be left out any more.")
        if row.status == "open":
            _leave_out(federation, session, row, without, "left out by the coordinator")
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
        _decide(federation, session, row, without, "released by the coordinator")
    return _seen_through(federation, number)


def abort(federation: Federation, number: int, reason: str) -> RoundRow:
    """Ends a round without a model, and pauses its series. Its updates are kept as those of a failed round are.

    Not while a model is being made, which is waited for. Raises UsageError when the round has ended, TryAgainLater
    when the wait was too long.
    """
    with _alone(federation.folder / "advance.lock", patient=True) as alone:
        if not alone:
            raise TryAgainLater(f"Another process has been at work on the rounds for {LONGEST_TURN:g} s.")
        with federation.database.writing() as session:
            row = session.get(RoundRow, number)
            if row is None or row.status not in UNFINISHED:
                raise UsageError(f"Round {number} is not under way.", "See fedsite server round list.")
            row.reason = "; ".join(filter(None, [row.reason, f"aborted by the coordinator: {reason}"]))
            _end_uploads(federation, session, row)
            _without_model(federation, session, row, "aborted")
        tidy(federation)
    return row


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
                _end_what_is_due(federation, session, round_of(session, number))
            _screen(federation, number)
            _aggregate(federation, number)
        tidy(federation)


def tidy(federation: Federation) -> None:
    """Removes what no round needs any more: what sites have sent (`rows.kept_updates`), old moments, half models."""
    federation.models.tidy()
    folders = [federation.folder / "incoming", federation.folder / "updates"]
    files = [path for folder in folders for path in folder.iterdir()]  # before the rows: a file comes after its row
    arriving = select(UploadRow).join(RoundRow).where(UploadRow.state == "receiving", RoundRow.status == "open")
    with federation.database.reading() as session:
        kept = {one.id for needed in (arriving, kept_updates()) for one in session.scalars(needed)}
    for path in files:
        if path.name not in kept:
            path.unlink(missing_ok=True)
    with federation.database.writing() as session:
        making.tidy(federation, session)


def _seen_through(federation: Federation, number: int) -> RoundRow:
    advance(federation, patient=True)
    with federation.database.reading() as session:
        return round_of(session, number)


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
    plan, now = plan_of(federation, series_of(session, row)), federation.clock()
    if plan.rounds.enough is not None and arrived(session, row.number) >= plan.rounds.enough:
        return "enough updates"
    waits = now < takes_until(plan, row) and _receiving(session, row)
    return "deadline" if row.expires <= now and not waits else ""


def _end_what_is_due(federation: Federation, session: Session, row: RoundRow) -> None:
    """Closes an open round, or ends the wait of a held one: then its conspicuous updates are left out."""
    why = _why_due(federation, session, row) if row.status in ("open", "held") else ""
    if why and row.status == "open":
        _close(federation, session, row, why)
    elif why:
        _decide(federation, session, row, screen.conspicuous(json.loads(_screened(session, row).verdict)), why)


def _close(federation: Federation, session: Session, row: RoundRow, why: str) -> None:
    """From here on nothing is accepted for the round."""
    plan, count = plan_of(federation, series_of(session, row)), len(counted(session, row.number))
    row.reason = f"{why}: {count} updates, quorum {plan.rounds.quorum}"
    _end_uploads(federation, session, row)
    _go_on_with(federation, session, row, plan, count)


def _receiving(session: Session, row: RoundRow) -> Sequence[UploadRow]:
    """The updates of a round that have begun to arrive."""
    found = select(UploadRow).where(UploadRow.round == row.number, UploadRow.state == "receiving")
    return session.scalars(found).all()


def _end_uploads(federation: Federation, session: Session, row: RoundRow) -> None:
    """What is not whole when a round closes is late. (A round that was held is closed already.)"""
    row.closed = row.closed or federation.clock()
    for one in _receiving(session, row):
        one.state, one.reason = "late", f"{one.offset} of {one.size} bytes were here when the round closed"


def _go_on_with(federation: Federation, session: Session, row: RoundRow, plan: Plan, count: int) -> None:
    """A closed round with so many updates that count is aggregated next, or it fails."""
    if count < plan.rounds.quorum:
        _without_model(federation, session, row, "failed")
        return
    row.status = "closing"
    log.info("round %d is closing (%s)", row.number, row.reason)


def _without_model(federation: Federation, session: Session, row: RoundRow, status: str) -> None:
    """A round's end without a model, and what follows it."""
    row.status = status
    log.warning("round %d is %s (%s)", row.number, row.status, row.reason)
    series.go_on(federation, session, row)


def _leave_out(federation: Federation, session: Session, row: RoundRow, sites: Sequence[str], why: str) -> list[str]:
    """Leaves the updates of some sites out of the round's model; gives these sites, each once and in order."""
    updates = {one.site: one for one in accepted(session, row.number)}
    if strangers := set(sites) - updates.keys():
        raise UsageError(f"Round {row.number} has no update of {', '.join(sorted(strangers))}.")
    if sites and plan_of(federation, series_of(session, row)).algorithm == "scaffold":
        raise UsageError(
            "Under scaffold no update can be left out: its site has put it into its control.",
            f"Take it, or end the round without a model: fedsite server round abort {row.number}.",
        )
    for site in set(sites):
        updates[site].left_out = why
    return sorted(set(sites))


def _screen(federation: Federation, number: int) -> None:
    """Looks at the updates of a closing round, once: what is found is durable before anything is made of them."""
    with federation.database.reading() as session:
        row = round_of(session, number)
        plan, done = plan_of(federation, series_of(session, row)), session.get(ScreenRow, number)
        updates = {one.site: update_path(federation, one.id) for one in counted(session, number)}
    if row.status != "closing" or plan.screen is None or done is not None:
        return
    layout = layout_of(federation.models.path(row.model_sha256)).encoded(plan.payload)
    verdict = screen.examine(updates, layout, plan, plan.screen)
    with federation.database.writing() as session:
        row, found = round_of(session, number), ScreenRow(round=number, verdict=json.dumps(verdict))
        session.add(found)
        flagged = screen.conspicuous(verdict)
        if flagged and plan.screen.rule == "hold":
            row.status, found.held_until = "held", federation.clock() + timedelta(seconds=plan.screen.hold_seconds)
        elif flagged and plan.screen.rule == "drop":
            _decide(federation, session, row, flagged, "dropped by the plan's screen")
    log.info("round %d: its screen finds %d of %d updates conspicuous", number, len(flagged), len(updates))


def _decide(federation: Federation, session: Session, row: RoundRow, without: Sequence[str], why: str) -> None:
    """What becomes of the conspicuous updates; the round goes on if a quorum is left, and fails otherwise."""
    left_out = _leave_out(federation, session, row, without, why)
    _screened(session, row).decision = why
    count = len(counted(session, row.number))
    row.reason += f"; {why}: without {', '.join(left_out) or 'nobody'}, {count} updates"
    _go_on_with(federation, session, row, plan_of(federation, series_of(session, row)), count)


def _screened(session: Session, row: RoundRow) -> ScreenRow:
    session.flush()
    return session.scalars(select(ScreenRow).where(ScreenRow.round == row.number)).one()


def _aggregate(federation: Federation, number: int) -> None:
    """Makes a closing round's model, then in one transaction names it and what follows the round."""
    with federation.database.reading() as session:
        row = round_of(session, number)
        plan, uploads = plan_of(federation, series_of(session, row)), counted(session, number)
    if row.status != "closing":
        return
    updates = [Update(update_path(federation, one.id), one.weight) for one in uploads]
    made = making.make(federation, row, plan, updates)
    with federation.database.writing() as session:
        making.remember(session, made, federation.clock(), number)
        row = round_of(session, number)
        row.status, row.result_sha256, row.control_sha256 = "aggregated", made.model_sha256, made.control_sha256
        if made.step:
            row.step_norm, row.step_values = made.step.norm, made.step.values
        log.info("round %d is aggregated from %d updates", number, len(updates))
        series.go_on(federation, session, row)


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
