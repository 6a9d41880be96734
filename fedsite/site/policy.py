"""What this site allows. A plan asks, the policy answers; the stricter wins, and nothing from outside loosens it."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field

from fedsite.errors import PolicyRefused
from fedsite.site.hours import Day, Hours, TimeZone
from fedsite.site.section import Section

WEAK_PRIVACY_SENTENCE = "We know that this gives the patients no meaningful guarantee."
NO_PRIVACY_SENTENCE = "We know that what leaves is not private."


def _none(names: list[str]) -> list[str]:
    if names:
        raise ValueError("this fedsite knows no way for a metric to leave: leave the list empty")
    return names


def _is(sentence: str) -> AfterValidator:
    """A sentence that counts only as it stands: one that is nearly it would be believed to count."""

    def checked(given: str) -> str:
        if given not in ("", sentence):
            raise ValueError(f"must be empty, or exactly: {sentence}")
        return given

    return AfterValidator(checked)


class Policy(Section):
    """What this site allows. A plan asks; the stricter of plan and policy wins."""

    federations: list[str] | None = Field(
        default=None, description="Federations that may ask; not set: the one that this site is enrolled in."
    )
    tasks: list[str] = Field(default=[], description="Tasks that may be trained here.")
    algorithms: list[str] = Field(default=["fedavg"], description="Algorithms that may run here.")
    approve_plans: bool = Field(
        default=False,
        description="Before the first round of a plan that asks for something new, a person must have agreed:"
        " fedsite approve PLAN. Another name, date, seed or key is nothing new.",
    )
    agreement_until: date | None = Field(
        default=None,
        description="The last day on which this site takes part, such as 2027-12-31. The data-use agreement's own end,"
        " if it has one, holds beside it: the earlier counts.",
    )
    hours: list[Hours] = Field(
        default=[],
        description="Hours in which fedsite train-round asks, trains and sends, such as [20:00-06:00], each end"
        " excluded; none named: at any time. What is still at work when they end stops, and goes on when they begin.",
    )
    days: list[Day] = Field(
        default=[], description="Days on which it does, such as [sat, sun]; a new one begins at midnight."
    )
    time_zone: TimeZone | None = Field(
        default=None,
        description="Where the hours and days are, such as Europe/Zurich; not set: the time zone of this machine.",
    )
    maximum_steps: int = Field(default=1000, ge=0, description="Optimiser steps in one round.")
    maximum_epochs: float | None = Field(
        default=None,
        gt=0,
        description="How often one round's training may go through this site's patients, as many as"
        " privacy.nominal_patients says: patches, or under dp-sgd patients, of all its steps over that number.",
    )
    maximum_gpu_minutes: float | None = Field(
        default=None, gt=0, description="Minutes of GPU that one round's training may take; several GPUs add up."
    )
    maximum_download_megabytes: float = Field(default=1024, gt=0, description="Size of a model that may be fetched.")
    maximum_upload_megabytes: float = Field(default=1024, gt=0, description="Size of an update that may leave.")
    minimum_noise_multiplier: float = Field(default=0.0, ge=0, description="sigma; a plan with less noise is refused.")
    maximum_epsilon_per_round: float | None = Field(
        default=None, gt=0, description="Privacy that a single round may cost, at the ledger's delta."
    )
    maximum_epsilon: float | None = Field(
        default=None, gt=0, description="Tightens the ledger's budget; it can never widen it."
    )
    metrics: Annotated[list[str], AfterValidator(_none)] = Field(
        default=[],
        description="Metrics, such as Dice, that may leave. None can: a plan has no way to ask for one, and what is"
        " measured on patients stays here. The list must be empty.",
    )
    require_deidentified_input: bool = Field(
        default=False,
        description="Leave out DICOM images whose headers hold direct identifiers, after the profile of PS3.15.",
    )
    weak_privacy: Annotated[str, _is(WEAK_PRIVACY_SENTENCE)] = Field(
        default="", description=f"To allow an epsilon above 20, write here: {WEAK_PRIVACY_SENTENCE}"
    )
    no_privacy: Annotated[str, _is(NO_PRIVACY_SENTENCE)] = Field(
        default="", description=f"To allow plans without noise, write here: {NO_PRIVACY_SENTENCE}"
    )
    public_weight: float | None = Field(
        default=None, gt=0, description="This site's weight where a plan takes declared ones. It becomes public."
    )


@dataclass(frozen=True)
class Asked:
    """What a plan asks of this site, as plain values. `epochs` are of as many patients as the site typed."""

    federation: str
    task: str
    algorithm: str
    steps: int
    epochs: float
    noise_multiplier: float
    download_bytes: int
    upload_bytes: int
    declared_weight: bool


def check(policy: Policy, asked: Asked) -> None:
    """Raises PolicyRefused naming the first rule that the plan breaks, and the key that a person would change."""
    _within(
        policy.federations is None or asked.federation in policy.federations,
        f"The plan is of the federation {asked.federation}.",
        "policy.federations",
    )
    _within(asked.task in policy.tasks, f"The plan's task is {asked.task}.", "policy.tasks")
    _within(asked.algorithm in policy.algorithms, f"The plan's algorithm is {asked.algorithm}.", "policy.algorithms")
    _check_work(policy, asked)
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


def _check_work(policy: Policy, asked: Asked) -> None:
    """The caps on a round: steps, epochs, and bytes each way."""
    _within(asked.steps <= policy.maximum_steps, f"The plan asks for {asked.steps} steps.", "policy.maximum_steps")
    _within(
        policy.maximum_epochs is None or asked.epochs <= policy.maximum_epochs,
        f"The plan's steps go through this site's patients {asked.epochs:.3g} times.",
        "policy.maximum_epochs",
    )
    _within(
        asked.download_bytes <= policy.maximum_download_megabytes * 1e6,
        f"The model has {asked.download_bytes / 1e6:.3g} MB.",
        "policy.maximum_download_megabytes",
    )
    _within(
        asked.upload_bytes <= policy.maximum_upload_megabytes * 1e6,
        f"The update would have {asked.upload_bytes / 1e6:.3g} MB.",
        "policy.maximum_upload_megabytes",
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
