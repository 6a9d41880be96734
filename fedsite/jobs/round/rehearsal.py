"""A dry run: the round is trained, and what would leave is shown. Nothing is charged, sent, or told to the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsite.errors import TryAgainLater
from fedsite.jobs.plan import charging
from fedsite.jobs.round import egress, state_machine
from fedsite.jobs.round.state_machine import Round
from fedsite.jobs.training import local_work
from fedsite.wire.plans import DpSgd


def rehearse(here: Round) -> dict[str, Any]:
    """What would leave. Raises TryAgainLater once the round is charged, and what admitting and training raise."""
    charged = here.site.ledger.reservation(here.offer.plan.federation, here.number)
    if charged or here.state not in here.order[: here.order.index("reserved")]:
        raise TryAgainLater(
            f"Round {here.number} is {here.state}, and charged or over: there is nothing to preview.",
            "fedsite train-round brings it to its end.",
        )
    state_machine.admit(here)
    with _weights(here) as trained:
        return preview(here, trained)


@contextmanager
def _weights(here: Round) -> Iterator[Path]:
    """The weights of a round that is not charged.

    Those of a training that a round may still release are kept for it. Under dp-sgd a training that is released must
    have been paid for before its first step, so what a dry run has trained is thrown away.
    """
    if not isinstance(here.offer.plan.privacy, DpSgd):
        state_machine.advance(here, until="trained")
        yield here.checkpoint
        return
    thrown_away = here.checkpoint.with_name("dry-run.safetensors")
    try:
        while here.state != "fetched" or not state_machine.model_is_here(here):
            state_machine.advance(here, until="fetched")
        state_machine.trained(here, thrown_away)
        yield thrown_away
    finally:
        for path in (thrown_away, local_work.kept_beside(thrown_away)):
            path.unlink(missing_ok=True)


def preview(here: Round, trained: Path) -> dict[str, Any]:
    """What would leave, as `egress.describe` says it. For this site's eyes only."""
    update, ledger = local_work.open_update(here.model, trained), here.site.ledger
    charge = charging.charge_for(here.offer, update[1].values, ledger.terms)
    return egress.describe(here.offer.plan, update, ledger.spent(), ledger.price(charge), ledger.terms.delta)
