"""What a plan asks of the server: how the sites' updates become one, what steps it makes, what it looks at before.

The sites need none of it to do their part; it stands in the signed plan so that they know what becomes of their work.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field, Tag

from fedsite.wire.forms import WORD, by_name
from fedsite.wire.messages import Closed

if TYPE_CHECKING:
    from fedsite.wire.plans import PlanDraft

FEWEST = 3
"""Of two values, nobody can say which one lies far from the others."""


class TrimmedMean(Closed):
    """Of each value the largest and the smallest `share` of the sites are left out (Yin et al. 2018, definition 2)."""

    name: Literal["trimmed-mean"]
    share: Annotated[float, Field(gt=0, lt=0.5)]


class NormBounded(Closed):
    """Longer updates are scaled down to the norm `bound` before the mean is taken (Sun et al. 2019)."""

    name: Literal["norm-bounded"]
    bound: Annotated[float, Field(gt=0, le=1e12)]


PlainAggregation = Literal["mean", "median"]
Aggregation = Annotated[
    Annotated[PlainAggregation, Tag(WORD)]
    | Annotated[TrimmedMean, Tag("trimmed-mean")]
    | Annotated[NormBounded, Tag("norm-bounded")],
    by_name(
        "aggregation",
        get_args(PlainAggregation),
        ("trimmed-mean", "norm-bounded"),
        "mean, median, {name: trimmed-mean, share: S} or {name: norm-bounded, bound: B}",
    ),
]


class ServerAdam(Closed):
    """FedAdam (Reddi et al. 2021, algorithm 2): the server takes a step of Adam along what the updates have become.

    The second moment starts at tau squared, and nothing corrects either moment for its beginning.
    """

    learning_rate: Annotated[float, Field(gt=0, le=10)]
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Annotated[float, Field(ge=1e-9, le=1)] = 1e-3


class Screen(Closed):
    """Which updates are conspicuous among those of a round, and what becomes of them.

    Conspicuous is a norm above `largest_norm` times the median of all norms, a cosine to the coordinate median of the
    others below `least_cosine`, or outliers (more than 3.5 robust standard deviations from the coordinate median) in
    more than the share `most_outliers` of the values. `flag` says so in the round's report, `drop` leaves the update
    out, `hold` waits for a person, but no longer than `hold_seconds`: then it is left out.
    """

    rule: Literal["flag", "hold", "drop"]
    largest_norm: Annotated[float, Field(gt=1, le=1000)] = 3.0
    least_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.0
    most_outliers: Annotated[float, Field(gt=0, le=1)] = 0.5
    hold_seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = 259_200


class SmallSteps(Closed):
    """The model has moved by a norm below `norm_below` in each of the last `rounds` rounds that made one."""

    norm_below: Annotated[float, Field(gt=0, le=1e12)]
    rounds: Annotated[int, Field(ge=1, le=1000)]


class Stop(Closed):
    """When a series stops before all of its rounds are over.

    So many `failed_rounds` in a row pause it, until a person lets it go on: each may have cost the sites privacy for
    nothing. `small_steps` end it. Nothing measured on patients leaves a site, so nothing of the kind can end it.
    """

    failed_rounds: Annotated[int, Field(ge=1, le=1000, exclude_if=lambda count: count == 1)] = 1
    small_steps: Annotated[SmallSteps | None, Field(exclude_if=lambda rule: rule is None)] = None


def conflict(plan: "PlanDraft") -> str | None:
    """Why the plan's rules for the server do not go together, by key, and what to do; None when they do."""
    return _between_steps(plan) or _with_the_sites(plan) or _with_scaffold(plan)


def _between_steps(plan: "PlanDraft") -> str | None:
    if plan.server_momentum and plan.server_adam:
        return "server_momentum: not with server_adam, which has a momentum of its own (beta1): leave one of them out"
    if plan.server_adam and plan.stop.small_steps:
        return "stop.small_steps: not with server_adam, whose steps are of one size, whatever the updates are"
    rule = plan.aggregation
    if isinstance(rule, NormBounded) and rule.bound >= plan.max_update_norm:
        return "aggregation: a bound at or above max_update_norm bounds nothing: give it a lower one, or use mean"
    return None


def _with_the_sites(plan: "PlanDraft") -> str | None:
    """A rule by rank knows no weights, and below three updates leaves nothing out."""
    rule, quorum = plan.aggregation, plan.rounds.quorum
    if rule != "median" and not isinstance(rule, TrimmedMean):
        return None
    name = rule if isinstance(rule, str) else rule.name
    if plan.weights != "equal":
        return f"aggregation: {name} needs weights: equal, since ranks have no weights: use those, or norm-bounded"
    if quorum < FEWEST:
        return f"aggregation: {name} needs rounds.quorum of at least {FEWEST}: of fewer it would be the mean"
    if isinstance(rule, TrimmedMean) and not left_out(quorum, rule.share):
        return (
            f"aggregation: a trimmed-mean of share {rule.share:g} leaves nothing out of {quorum} updates"
            f" (rounds.quorum): raise the share to {math.ceil(1000 / quorum) / 1000:g} or more, or the quorum"
        )
    return None


def _with_scaffold(plan: "PlanDraft") -> str | None:
    """The server's control must be the mean of all controls that sites hold, so every update must be in it whole."""
    if plan.algorithm != "scaffold":
        return None
    if plan.aggregation != "mean":
        return "aggregation: scaffold needs mean, since its control is a mean too: use mean, or algorithm fedavg"
    if plan.screen is not None and plan.screen.rule != "flag":
        return "screen: scaffold cannot leave an update out, which its site has put into its control: use rule flag"
    return None


def left_out(sites: int, share: float) -> int:
    """How many of so many sites a trimmed mean leaves out at each end: the share, rounded down."""
    return int(share * sites + 1e-9)  # 0.29 * 100 is 28.999999999999996
