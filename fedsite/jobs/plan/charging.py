"""What a plan's privacy mechanism means at this site: the gate, how patients are sampled, what the ledger is asked for.

| mechanism | one patient moves | the ledger counts |
| --- | --- | --- |
| `gaussian-update` | the clipped update by up to 2C | Gaussian(sigma/2), once |
| `dp-sgd` | a step's sum by up to C, if sampled | Gaussian(sigma), sampled at rate q, `local.steps` times |
"""

from fedsite.errors import PolicyRefused
from fedsite.jobs.plan.verification import Offer
from fedsite.privacy import accountant, mechanism
from fedsite.privacy.accountant import Release
from fedsite.privacy.ledger import Charge, Terms
from fedsite.privacy.mechanism import Gate
from fedsite.wire.plans import DpSgd, PlanDraft

SAMPLING = "patients sampled by os.urandom"


def gate_for(plan: PlanDraft, values: int) -> Gate:
    """The gate that the plan's mechanism means for `values` values: of the update, or of each step's gradient."""
    return Gate(plan.privacy.clip_norm, plan.privacy.noise_multiplier, values)


def signal_to_noise(plan: PlanDraft, values: int) -> float | None:
    """Norm of the largest signal over the expected norm of the noise; None without noise.

    Under dp-sgd of one step in which as many patients as the plan means all point the same way.
    """
    gate = gate_for(plan, values)
    if not gate.noise_multiplier:
        return None
    return gate.signal_to_noise * (plan.privacy.batch_patients if isinstance(plan.privacy, DpSgd) else 1)


def sampling_rate(plan: PlanDraft, terms: Terms) -> float:
    """The chance q of each patient to be in a step: the plan's patients over those that were typed, never counted.

    Raises PolicyRefused where the plan means more patients than this site has promised to have.
    """
    if not isinstance(plan.privacy, DpSgd):
        return 1.0
    rate = plan.privacy.batch_patients / terms.nominal_patients
    if rate > 1:
        raise PolicyRefused(
            f"The plan samples {plan.privacy.batch_patients} patients a step (privacy.batch_patients); this site's"
            f" ledger was made for {terms.nominal_patients}.",
            "Nothing left. That number was typed for the lifetime of the ledger (privacy.nominal_patients): ask the"
            " coordinator for a plan with fewer patients a step.",
        )
    return rate


def epochs(plan: PlanDraft, terms: Terms) -> float:
    """How often a round's training goes through as many patients as this site typed: no count of patients is told."""
    local = plan.local
    seen = plan.privacy.batch_patients if isinstance(plan.privacy, DpSgd) else local.batch_size * local.accumulation
    return local.steps * seen / terms.nominal_patients


def release_for(plan: PlanDraft, terms: Terms) -> Release | None:
    """What one round under the plan is to the accountant; None without noise. Raises as `sampling_rate` does."""
    asked, rate = plan.privacy, sampling_rate(plan, terms)
    if not asked.noise_multiplier:
        return None
    steps = plan.local.steps if isinstance(asked, DpSgd) else 1
    return accountant.release_of(asked.mechanism, asked.noise_multiplier, rate, steps)


def charge_for(offer: Offer, values: int, terms: Terms) -> Charge:
    """What a round under the plan's mechanism costs. `values` is the number of released values d (or a bound).

    Raises PolicyRefused as `sampling_rate` does.
    """
    plan, asked = offer.plan, offer.plan.privacy
    private_steps = isinstance(asked, DpSgd)
    steps = plan.local.steps if private_steps else 1
    return Charge(
        federation=plan.federation,
        round=offer.ticket.round,
        plan_sha256=offer.plan_sha256,
        ticket_sha256=offer.ticket_sha256,
        mechanism=asked.mechanism,
        # One patient added or removed can turn a clipped update into any other, a change of up to 2C; in the sum of a
        # step it is one clipped gradient more or less.
        sensitivity=asked.clip_norm if private_steps else 2 * asked.clip_norm,
        clip_norm=asked.clip_norm,
        noise_multiplier=asked.noise_multiplier,
        sampling_rate=sampling_rate(plan, terms),
        steps=steps,
        release=release_for(plan, terms),
        delta_tail=steps * gate_for(plan, max(values, 1)).tail,
        generator=f"{mechanism.GENERATOR}; {SAMPLING}" if private_steps else mechanism.GENERATOR,
    )
