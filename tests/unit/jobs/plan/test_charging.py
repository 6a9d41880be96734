"""What a plan's mechanism means at a site: gate, rate, price, charge; and how far an honest update can go."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from support.federation import dp_sgd, plan
from torch import nn

from fedsite.errors import PolicyRefused
from fedsite.jobs.plan import charging
from fedsite.jobs.plan.verification import Offer
from fedsite.privacy import accountant, mechanism
from fedsite.privacy.accountant import Release
from fedsite.privacy.dpsgd import PrivateGradient, Settings
from fedsite.privacy.ledger import Terms
from fedsite.training.schedules import make_optimizer
from fedsite.wire.messages import Ticket, parse, utc_now
from fedsite.wire.norms import largest_honest_norm
from fedsite.wire.plans import Plan

KEY = {"id": "0" * 16, "ed25519": "0" * 64}
TERMS = Terms(epsilon=8.0, delta=1e-6, order=10.0, nominal_patients=50)
UPDATE = {"mechanism": "gaussian-update", "clip_norm": 2.0, "noise_multiplier": 4.0}
STEPS = {"steps": 30, "patch_voxels": [16, 16, 16], "optimizer": "sgd", "learning_rate": 0.1}


def asked(privacy: dict[str, Any], **local: Any) -> Plan:
    content = plan(privacy=privacy, local=STEPS | local) | {"round_key": KEY, "receipt_key": KEY}
    return parse(Plan, json.dumps(content).encode())


def offer(privacy: dict[str, Any]) -> Offer:
    ticket = Ticket(
        federation="test-federation", plan_sha256="1" * 64, round=7, previous_ticket=None, model_sha256="2" * 64,
        model_bytes=4000, opened=utc_now(), expires=utc_now(),
    )  # fmt: skip
    return Offer(asked(privacy), ticket, "1" * 64, "3" * 64)


def test_private_steps_are_charged_as_a_sampled_gaussian_of_so_many_steps() -> None:
    charge = charging.charge_for(offer(dp_sgd(clip_norm=2.0, noise_multiplier=1.5, batch_patients=5)), 1000, TERMS)
    assert (charge.mechanism, charge.sensitivity, charge.clip_norm, charge.noise_multiplier) == (
        "dp-sgd",
        2.0,
        2.0,
        1.5,
    )
    assert (charge.sampling_rate, charge.steps) == (0.1, 30)
    assert charge.release == Release(1.5, 0.1, 30)
    assert charge.delta_tail == 30 * 1000 * 2.0**-53
    assert charge.generator == f"{mechanism.GENERATOR}; patients sampled by os.urandom"


def test_an_update_is_charged_once_with_half_the_noise() -> None:
    charge = charging.charge_for(offer(UPDATE), 1000, TERMS)
    assert (charge.mechanism, charge.sensitivity, charge.clip_norm, charge.noise_multiplier) == (
        "gaussian-update", 4.0, 2.0, 4.0,
    )  # fmt: skip
    assert (charge.sampling_rate, charge.steps, charge.release) == (1.0, 1, Release(2.0))
    assert charge.delta_tail == 1000 * 2.0**-53
    assert charge.generator == mechanism.GENERATOR


@pytest.mark.parametrize("privacy", [dp_sgd(noise_multiplier=0.0), UPDATE | {"noise_multiplier": 0.0}])
def test_without_noise_there_is_nothing_to_price(privacy: dict[str, Any]) -> None:
    charge = charging.charge_for(offer(privacy), 1000, TERMS)
    assert (charge.release, charge.delta_tail) == (None, 0.0)
    assert charging.signal_to_noise(asked(privacy), 100) is None


@pytest.mark.parametrize(("batch", "rate"), [(1, 0.02), (49, 0.98), (50, 1.0)])
def test_the_rate_is_of_the_patients_that_were_typed(batch: int, rate: float) -> None:
    assert charging.sampling_rate(asked(dp_sgd(batch_patients=batch)), TERMS) == rate
    assert charging.sampling_rate(asked(UPDATE), TERMS) == 1


def test_more_patients_than_were_typed_are_refused() -> None:
    with pytest.raises(PolicyRefused, match=r"51 patients a step \(privacy.batch_patients\).* made for 50") as refused:
        charging.sampling_rate(asked(dp_sgd(batch_patients=51)), TERMS)
    assert "ask the coordinator for a plan with fewer patients a step" in refused.value.mend
    with pytest.raises(PolicyRefused):
        charging.charge_for(offer(dp_sgd(batch_patients=51)), 1, TERMS)


def test_everybody_in_every_step_has_the_closed_form() -> None:
    """At q = 1 T steps are one Gaussian of sigma / sqrt(T)."""
    release = charging.release_for(asked(dp_sgd(batch_patients=50, noise_multiplier=10.0)), TERMS)
    assert release is not None
    whole = accountant.sequence_epsilon([release], TERMS.delta)
    assert whole == pytest.approx(accountant.sequence_epsilon([Release(10 / math.sqrt(30))], TERMS.delta), rel=1e-9)


def test_signal_to_noise_is_of_the_update_or_of_a_step() -> None:
    assert charging.signal_to_noise(asked(UPDATE), 100) == pytest.approx(1 / (4.0 * 10))
    assert charging.signal_to_noise(asked(dp_sgd(noise_multiplier=2.0, batch_patients=6)), 100) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("local", "noise"),
    [
        ({"momentum": 0.0}, 1.0),
        ({"momentum": 0.9}, 1.0),
        ({"momentum": 0.0}, 0.0),
        ({"optimizer": "adam", "learning_rate": 0.001}, 1.0),
        ({"optimizer": "adam", "learning_rate": 0.001, "steps": 1}, 1.0),
        ({"optimizer": "adam", "learning_rate": 0.001}, 0.0),
    ],
)
def test_an_honest_update_stays_below_what_the_site_demands(local: dict[str, Any], noise: float) -> None:
    """The worst that patients can do: as many as twice the plan's, all of one direction, in each step or in few."""
    privacy = dp_sgd(clip_norm=0.5, noise_multiplier=noise, batch_patients=3)
    agreed = asked(privacy, **local)
    direction = torch.ones(5000)
    for when in (range(30), range(20, 30)):
        weights = nn.Linear(1, 5000, bias=False)
        start = weights.weight.detach().clone()
        step = PrivateGradient(weights, 1, Settings(0.5, noise, 3, 0.1))
        optimizer = make_optimizer(weights, agreed.local.optimizer, agreed.local.learning_rate, agreed.local.momentum)

        def gradients(patch: torch.Tensor, weights: nn.Linear = weights) -> torch.Tensor:
            weights.weight.grad = patch[:, None].clone()
            return torch.zeros(())

        for number in range(agreed.local.steps):
            step(gradients, [direction] * 6 if number in when else [])
            optimizer.step()
        moved = float(torch.linalg.vector_norm(weights.weight.detach() - start))
        assert moved <= largest_honest_norm(agreed, 5000)


def test_what_the_site_demands_of_an_update_that_is_noised_once() -> None:
    assert largest_honest_norm(asked(UPDATE), 10_000) == pytest.approx(2.0 * (1 + 4.0 * 106))
    with_controls = asked(dp_sgd(), momentum=0.0).model_copy(update={"algorithm": "scaffold"})
    without = asked(dp_sgd(), momentum=0.0)
    assert largest_honest_norm(with_controls, 100) == pytest.approx(3 * largest_honest_norm(without, 100))
    assert np.isfinite(largest_honest_norm(without, 100))


@pytest.mark.parametrize(
    ("privacy", "local", "expected"),
    [
        (dp_sgd(batch_patients=5), {}, 30 * 5 / 50),
        (UPDATE, {"batch_size": 2}, 30 * 2 / 50),
        (UPDATE, {"batch_size": 2, "accumulation": 4}, 30 * 2 * 4 / 50),
        (UPDATE, {"steps": 0}, 0.0),
    ],
)
def test_epochs_are_of_the_patients_that_were_typed(
    privacy: dict[str, Any], local: dict[str, Any], expected: float
) -> None:
    assert charging.epochs(asked(privacy, **local), TERMS) == expected
