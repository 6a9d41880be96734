"""What this site allows. A plan asks, the policy answers; the stricter wins, and nothing from outside loosens it."""

from dataclasses import dataclass

from fedsite.errors import PolicyRefused
from fedsite.site.config import NO_PRIVACY_SENTENCE, WEAK_PRIVACY_SENTENCE, Policy


@dataclass(frozen=True)
class Asked:
    """What a plan asks of this site, as plain values."""

    task: str
    algorithm: str
    steps: int
    noise_multiplier: float
    model_bytes: int
    declared_weight: bool


def check(policy: Policy, asked: Asked) -> None:
    """Raises PolicyRefused naming the first rule that the plan breaks, and the key that a person would change."""
    _within(asked.task in policy.tasks, f"The plan's task is {asked.task}.", "policy.tasks")
    _within(asked.algorithm in policy.algorithms, f"The plan's algorithm is {asked.algorithm}.", "policy.algorithms")
    _within(asked.steps <= policy.maximum_steps, f"The plan asks for {asked.steps} steps.", "policy.maximum_steps")
    _within(
        asked.model_bytes <= policy.maximum_download_megabytes * 1e6,
        f"The model has {asked.model_bytes / 1e6:.1f} MB.",
        "policy.maximum_download_megabytes",
    )
    _within(
        asked.noise_multiplier >= policy.minimum_noise_multiplier,
        f"The plan's noise multiplier is {asked.noise_multiplier:g}.",
        "policy.minimum_noise_multiplier",
    )
    _within(
        asked.noise_multiplier > 0 or policy.no_privacy == NO_PRIVACY_SENTENCE,
        "The plan adds no noise: what leaves would not be private.",
        "policy.no_privacy",
    )
    _within(
        not asked.declared_weight or policy.public_weight is not None,
        "The plan weighs sites by numbers that they declare.",
        "policy.public_weight",
    )


def check_price(policy: Policy, epsilon_of_round: float | None, epsilon_in_all: float, meaningful: float) -> None:
    """Raises PolicyRefused when a round's price breaks the policy.

    `epsilon_of_round` is None for a release without noise, which has no price: policy.no_privacy decides about that.
    """
    if epsilon_of_round is None:
        return
    _within(
        policy.maximum_epsilon_per_round is None or epsilon_of_round <= policy.maximum_epsilon_per_round,
        f"The round would cost epsilon {epsilon_of_round:,.3g}.",
        "policy.maximum_epsilon_per_round",
    )
    _within(
        epsilon_in_all <= meaningful or policy.weak_privacy == WEAK_PRIVACY_SENTENCE,
        f"The round would bring this site to epsilon {epsilon_in_all:,.3g}, which is no meaningful guarantee.",
        "policy.weak_privacy",
    )


def _within(allowed: bool, what: str, key: str) -> None:
    if not allowed:
        raise PolicyRefused(
            f"{what} This site's policy does not allow it ({key}).",
            f"Nothing left. If the site wants this, its owner changes {key} in site.yaml; see: fedsite config explain"
            f" {key}",
        )
