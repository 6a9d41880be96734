"""A dry run: the round is trained, and what would leave is shown. Nothing is charged, sent, or told to the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsite.errors import TryAgainLater
from fedsite.jobs import algorithms, charging, local_work
from fedsite.jobs import round as rounds
from fedsite.jobs.round import Round
from fedsite.privacy import mechanism
from fedsite.privacy.statement import guarantee
from fedsite.wire.plans import DpSgd


def rehearse(here: Round) -> dict[str, Any]:
    """What would leave. Raises TryAgainLater once the round is charged, and what admitting and training raise."""
    if here.order.index(here.state) >= here.order.index("reserved"):
        raise TryAgainLater(
            f"Round {here.number} is {here.state}: it is charged already, there is nothing to preview.",
            "fedsite train-round brings it to its end.",
        )
    rounds.admit(here)
    with _weights(here) as trained:
        return preview(here, trained)


@contextmanager
def _weights(here: Round) -> Iterator[Path]:
    """The weights of a round that is not charged.

    Those of a training that a round may still release are kept for it. Under dp-sgd a training that is released must
    have been paid for before its first step, so what a dry run has trained is thrown away.
    """
    if not isinstance(here.offer.plan.privacy, DpSgd):
        rounds.advance(here, until="trained")
        yield here.checkpoint
        return
    thrown_away = here.checkpoint.with_name("dry-run.safetensors")
    try:
        rounds.advance(here, until="fetched")
        while not rounds.model_is_here(here):
            rounds.advance(here, until="fetched")
        rounds.trained(here, thrown_away)
        yield thrown_away
    finally:
        for path in (thrown_away, local_work.kept_beside(thrown_away)):
            path.unlink(missing_ok=True)


def preview(here: Round, trained: Path) -> dict[str, Any]:
    """What would leave: tensors, bytes, norms, noise, cost. For this site's eyes only.

    Under dp-sgd the update itself is not clipped (each patient's part of each step was), and the noise is that of a
    step, in the gradient.
    """
    plan, ledger = here.offer.plan, here.site.ledger
    read, layout = local_work.open_update(here.model, trained)
    gate = charging.gate_for(plan, layout.values)
    if isinstance(plan.privacy, DpSgd):
        norm, clipped, divisor = None, mechanism.measure_norm(read, layout.values), plan.privacy.batch_patients
    else:
        (norm, clipped), divisor = mechanism.preview(read, gate), 1
    before, after = ledger.spent(), ledger.price(charging.charge_for(here.offer, layout.values, ledger.terms))
    encoded = layout.encoded(plan.payload)
    return {
        "algorithm": plan.algorithm_name,
        "composition": algorithms.composition(plan, layout.values),
        "tensors": [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in layout.tensors],
        "values": layout.values,
        "bytes": encoded.file_bytes,
        "norm_before": norm,
        "norm_after_clipping": clipped,
        "clip_norm": gate.clip_norm,
        "noise_standard_deviation": gate.noise_multiplier * gate.clip_norm / divisor,
        "signal_to_noise": charging.signal_to_noise(plan, layout.values),
        "epsilon_before": before.epsilon,
        "epsilon_after": after.epsilon,
        "guarantee_after": guarantee(after.epsilon, ledger.terms.delta),
    }
