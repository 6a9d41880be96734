"""`fedsite privacy forecast` and `plan`: how long a budget lasts, and what noise makes it last.

Both ask the filter, which is what binds; forecasts start from what this site's ledger has spent.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fedsite.errors import NotAuthorised
from fedsite.jobs.plan.charging import charge_for
from fedsite.jobs.plan.verification import Offer, open_offer
from fedsite.jobs.site import Site, open_site
from fedsite.privacy import accountant
from fedsite.privacy.accountant import Mechanism
from fedsite.privacy.ledger import Charge, Spent, Terms, spent_after
from fedsite.privacy.statement import MEANINGFUL, guarantee
from fedsite.site.policy import WEAK_PRIVACY_SENTENCE, Policy
from fedsite.site.state import Record
from fedsite.wire.messages import Envelope

MOST_ROUNDS = 1_000_000  # as many as a federation can number


@dataclass(frozen=True)
class Budget:
    """What may be spent in all: the least of the ledger's budget and what the policy says; `key` is who says it."""

    epsilon: float
    key: str


def forecast(config_path: Path | None, rounds: int | None) -> dict[str, Any]:
    """How many rounds the budget still pays under the current plan; for `rounds`, the noise that makes it last.

    The current plan is that of the newest round that this site has met. Raises NotAuthorised before there is one, and
    what opening the site raises.
    """
    with open_site(config_path) as site:
        offer, charges, terms = _current(site), site.ledger.charges(), site.ledger.terms
        spent = site.ledger.spent()
        budget = _budget(site.config.policy, terms)
    charge = charge_for(offer, offer.ticket.model_bytes // 4, terms)
    left = _rounds_left(terms, spent, charge, budget.epsilon) if charge.release else None
    answer = {
        "plan": offer.plan.plan,
        "mechanism": charge.mechanism,
        "noise_multiplier": charge.noise_multiplier,
        "sampling_rate": charge.sampling_rate,
        "steps": charge.steps,
        "guarantee": guarantee(spent.epsilon, terms.delta),
        "budget": budget.epsilon,
        "budget_of": budget.key,
        "delta": terms.delta,
        "rounds_left": left,
        "guarantee_after": _guarantee_after(terms, spent, charge, left),
        "lasts_until": _lasts_until(charges, left),
        "rounds": rounds,
        "noise_multiplier_for_rounds": None,
    }
    if rounds is not None:
        answer["noise_multiplier_for_rounds"] = _noise_for(offer, terms, spent, rounds, budget.epsilon)
    return answer


def plan(mechanism: Mechanism, rate: float, steps: int, rounds: int, epsilon: float, delta: float) -> dict[str, Any]:
    """The noise multiplier that makes a new ledger of (epsilon, delta) pay for so many rounds of a mechanism.

    `epsilon_of_sequence` is what exactly this sequence costs, had it been fixed beforehand; the ledger binds the site
    to the filter's number, since the server may choose each round anew.
    """
    order = accountant.best_order(epsilon, delta)

    def price(noise: float) -> float:
        divergence = rounds * accountant.renyi(accountant.release_of(mechanism, noise, rate, steps), order)
        return accountant.filter_epsilon(divergence, order, delta)

    noise = accountant.least_noise(lambda noise: price(noise) <= epsilon)
    asked = {"mechanism": mechanism, "sampling_rate": rate, "steps": steps, "rounds": rounds, "delta": delta}
    if noise is None:
        return asked | {"noise_multiplier": None, "epsilon": None, "epsilon_of_sequence": None, "guarantee": None}
    release = accountant.release_of(mechanism, noise, rate, steps)
    together = replace(release, steps=rounds * release.steps)
    return asked | {
        "noise_multiplier": noise,
        "epsilon": price(noise),
        "epsilon_of_sequence": accountant.sequence_epsilon([together], delta),
        "guarantee": guarantee(price(noise), delta),
    }


def _current(site: Site) -> Offer:
    """The newest offer that this site has met."""
    met = [record for record in site.state.rounds(site.pinned.federation) if "plan" in record.body]
    if not met:
        raise NotAuthorised(
            "This site has met no round yet, so there is no plan to forecast.",
            "fedsite train-round --dry-run looks at the one that is due; fedsite privacy plan needs none.",
        )
    plan, ticket = (Envelope.model_validate(met[-1].body[name]) for name in ("plan", "ticket"))
    return open_offer(site.pinned, plan, ticket)


def _budget(policy: Policy, terms: Terms) -> Budget:
    limits = [Budget(terms.epsilon, "the ledger")]
    if policy.maximum_epsilon is not None:
        limits.append(Budget(policy.maximum_epsilon, "policy.maximum_epsilon"))
    if policy.weak_privacy != WEAK_PRIVACY_SENTENCE:
        limits.append(Budget(MEANINGFUL, "policy.weak_privacy"))
    return min(limits, key=lambda limit: limit.epsilon)


def _rounds_left(terms: Terms, spent: Spent, charge: Charge, budget: float) -> int:
    """How often the charge fits: the price only rises with each one."""

    def fits(times: int) -> bool:
        return spent_after(terms, spent, charge, times).epsilon_noised <= budget

    return _largest(fits, MOST_ROUNDS)


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` for which it holds, 0 for none; it must hold for all below."""
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _noise_for(offer: Offer, terms: Terms, spent: Spent, rounds: int, budget: float) -> float | None:
    """The least noise under which so many rounds of the plan fit; None where none does."""

    def fits(noise: float) -> bool:
        asked = offer.plan.privacy.model_copy(update={"noise_multiplier": noise})
        noised = replace(offer, plan=offer.plan.model_copy(update={"privacy": asked}))
        charge = charge_for(noised, offer.ticket.model_bytes // 4, terms)
        return spent_after(terms, spent, charge, rounds).epsilon_noised <= budget

    return accountant.least_noise(fits)


def _guarantee_after(terms: Terms, spent: Spent, charge: Charge, left: int | None) -> str:
    """What the ledger would say once those rounds are over; a plan without noise leaves nothing to say."""
    after = spent_after(terms, spent, charge, left) if left is not None else spent_after(terms, spent, charge)
    return guarantee(after.epsilon, terms.delta)


def _lasts_until(charges: list[Record], left: int | None) -> str | None:
    """The day on which the budget ends at the pace of the charges so far; None where there is no pace yet."""
    times = [datetime.fromisoformat(record.time) for record in charges]
    if left is None or len(times) < 2 or times[-1] <= times[0]:
        return None
    pace = (times[-1] - times[0]) / (len(times) - 1)
    try:
        return (times[-1] + left * pace).date().isoformat()
    except OverflowError:
        return None
