"""The site decides: each rule of the policy, one at a time."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from fedsite.errors import PolicyRefused
from fedsite.site import policy
from fedsite.site.policy import NO_PRIVACY_SENTENCE, WEAK_PRIVACY_SENTENCE, Asked, Policy

ALLOWED = Asked(
    federation="strokes",
    task="stroke-dwi",
    algorithm="fedavg",
    steps=10,
    epochs=2.5,
    noise_multiplier=1.0,
    download_bytes=5_000_000,
    upload_bytes=2_500_000,
    declared_weight=False,
)
POLICY = Policy(
    federations=["strokes"],
    tasks=["stroke-dwi"],
    maximum_steps=10,
    maximum_epochs=2.5,
    maximum_download_megabytes=5,
    maximum_upload_megabytes=2.5,
    minimum_noise_multiplier=1.0,
)


def test_what_is_allowed_to_the_last_is_allowed() -> None:
    policy.check(POLICY, ALLOWED)


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"federation": "stroke"}, "policy.federations"),
        ({"task": "stroke-flair"}, "policy.tasks"),
        ({"algorithm": "scaffold"}, "policy.algorithms"),
        ({"steps": 11}, "policy.maximum_steps"),
        ({"epochs": 2.51}, "policy.maximum_epochs"),
        ({"epochs": float("nan")}, "policy.maximum_epochs"),
        ({"download_bytes": 5_000_001}, "policy.maximum_download_megabytes"),
        ({"upload_bytes": 2_500_001}, "policy.maximum_upload_megabytes"),
        ({"noise_multiplier": 0.999}, "policy.minimum_noise_multiplier"),
        ({"noise_multiplier": float("nan")}, "policy.minimum_noise_multiplier"),
        ({"declared_weight": True}, "policy.public_weight"),
    ],
)
def test_each_rule_refuses_by_itself(asked: dict[str, Any], key: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        policy.check(POLICY, replace(ALLOWED, **asked))
    assert refused.value.exit_code == 80
    assert key in refused.value.message
    assert key in refused.value.mend


def test_a_new_site_allows_no_task() -> None:
    with pytest.raises(PolicyRefused, match=r"policy\.tasks"):
        policy.check(Policy(), ALLOWED)


def test_without_a_list_any_federation_may_ask_that_the_site_is_enrolled_in() -> None:
    policy.check(POLICY.model_copy(update={"federations": None, "maximum_epochs": None}), ALLOWED)
    with pytest.raises(PolicyRefused, match=r"policy\.federations"):
        policy.check(POLICY.model_copy(update={"federations": []}), ALLOWED)


def test_no_metric_may_leave() -> None:
    with pytest.raises(ValidationError, match="leave the list empty"):
        Policy(metrics=["dice"])


def test_a_declared_weight_needs_a_number_of_the_site() -> None:
    policy.check(POLICY.model_copy(update={"public_weight": 2.0}), replace(ALLOWED, declared_weight=True))


@pytest.mark.parametrize(
    ("sentence", "allowed"),
    [
        ("", False),
        ("yes", False),
        (NO_PRIVACY_SENTENCE.lower(), False),
        (WEAK_PRIVACY_SENTENCE, False),
        (NO_PRIVACY_SENTENCE, True),
    ],
)
def test_no_noise_needs_the_whole_sentence(sentence: str, allowed: bool) -> None:
    rules = POLICY.model_copy(update={"minimum_noise_multiplier": 0.0, "no_privacy": sentence})
    silent = replace(ALLOWED, noise_multiplier=0.0)
    if allowed:
        policy.check(rules, silent)
    else:
        with pytest.raises(PolicyRefused, match=r"policy\.no_privacy"):
            policy.check(rules, silent)


@pytest.mark.parametrize(
    ("sentence", "epsilon", "allowed"),
    [
        ("", 20.0, True),
        ("", 20.1, False),
        ("we know", 20.1, False),
        (NO_PRIVACY_SENTENCE, 20.1, False),
        (WEAK_PRIVACY_SENTENCE, 20.1, True),
        (WEAK_PRIVACY_SENTENCE, 4e5, True),
        ("", float("nan"), False),
    ],
)
def test_a_weak_guarantee_needs_the_whole_sentence(sentence: str, epsilon: float, allowed: bool) -> None:
    rules = POLICY.model_copy(update={"weak_privacy": sentence})
    if allowed:
        policy.check_price(rules, 1.0, epsilon, 20.0)
    else:
        with pytest.raises(PolicyRefused, match=r"policy\.weak_privacy"):
            policy.check_price(rules, 1.0, epsilon, 20.0)


def test_one_round_may_cost_so_much() -> None:
    rules = POLICY.model_copy(update={"maximum_epsilon_per_round": 2.0})
    policy.check_price(rules, 2.0, 5.0, 20.0)
    with pytest.raises(PolicyRefused, match=r"policy\.maximum_epsilon_per_round"):
        policy.check_price(rules, 2.01, 5.0, 20.0)


def test_what_has_no_price_is_another_rules_question() -> None:
    policy.check_price(POLICY, None, None, 20.0)
