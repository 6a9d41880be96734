"""When a series is over by its plan's rule: its model hardly moves any more (`wire.server_rules.SmallSteps`).

What noise does to it: an update is a signal of norm at most C and noise of standard deviation r C on each of its d
values (`screen.noise_ratio`), so in the mean of n updates the noise has a norm of about r C sqrt(d / n). Where that is
above C, how far the model moved says how much noise there was, and nothing about learning: the rule is uninformative,
and ends nothing. (Any other rule than the mean leaves more of the noise.)
"""

import math

from sqlalchemy import select
from sqlalchemy.orm import Session

from fedsite.server.rounds.screen import noise_ratio
from fedsite.server.rows import counted
from fedsite.server.store.storage import RoundRow, SeriesRow
from fedsite.wire.plans import PlanDraft


def why_over(session: Session, series: SeriesRow, plan: PlanDraft) -> str:
    """Why a series is over; empty when it is not, or when nobody can tell."""
    rule = plan.stop.small_steps
    if rule is None:
        return ""
    made = select(RoundRow).where(RoundRow.series_id == series.id, RoundRow.status == "aggregated")
    rows = session.scalars(made.order_by(RoundRow.number.desc()).limit(rule.rounds)).all()
    if len(rows) < rule.rounds or not all(_is_small(session, row, plan, rule.norm_below) for row in rows):
        return ""
    return f"its model moved by less than {rule.norm_below:g} in each of its last {rule.rounds} rounds"


def why_uninformative(plan: PlanDraft, values: int, updates: int) -> str | None:
    """Why a step that so many updates made, and in which so many values moved, tells nothing; None when it does."""
    noise = noise_ratio(plan) * math.sqrt(values / updates)
    if noise < 1:
        return None
    return f"the noise in the mean of {updates} updates has {noise:.3g} times the norm of the largest signal"


def outlook(plan: PlanDraft, values: int) -> str | None:
    """In a sentence, whether a plan's rule will be able to end its series; None without one, or where only updates
    will tell.
    """
    if plan.stop.small_steps is None or plan.local.train != "all":
        return None
    reason = why_uninformative(plan, values, plan.rounds.enough or plan.rounds.quorum)
    return f"stop: {'small steps end the series' if reason is None else f'steps are not judged: {reason}'}"


def judged(session: Session, row: RoundRow, plan: PlanDraft) -> str:
    """What a round's step tells: `informative`, or why not."""
    reason = why_uninformative(plan, row.step_values or 0, len(counted(session, row.number)))
    return "informative" if reason is None else f"uninformative: {reason}"


def _is_small(session: Session, row: RoundRow, plan: PlanDraft, below: float) -> bool:
    return row.step_norm is not None and row.step_norm < below and judged(session, row, plan) == "informative"
