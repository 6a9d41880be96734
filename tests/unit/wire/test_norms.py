"""The largest norm of an honest update, against updates that are made and encoded as a round does it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.federation import dp_sgd, plan

from fedsite.privacy import mechanism
from fedsite.privacy.mechanism import Gate, Rounded
from fedsite.wire import payload
from fedsite.wire.norms import ADAMS_REACH, largest_honest_norm
from fedsite.wire.payload import Layout, Tensor
from fedsite.wire.plans import PlanDraft

UPDATE = {"mechanism": "gaussian-update", "clip_norm": 0.5, "noise_multiplier": 2.0}


def asked(**changes: Any) -> PlanDraft:
    return PlanDraft.model_validate_json(PlanDraft.model_validate(plan(**changes), strict=False).to_bytes())


@pytest.mark.parametrize("payload_encoding", ["float32", "float16", "int8"])
@pytest.mark.parametrize("noise", [0.0, 0.01, 2.0])
@pytest.mark.parametrize("direction", ["even", "one"])
def test_what_the_gate_releases_is_below_it(
    tmp_path: Path, payload_encoding: str, noise: float, direction: str
) -> None:
    """Also where all of the update lies in one value, which makes the coarsest scale."""
    sizes = (9_000, 60)
    layout = Layout(tuple(Tensor(f"t{size}", (size,)) for size in sizes), payload_encoding)
    update = np.full(sum(sizes), 3.0) if direction == "even" else np.zeros(sum(sizes))
    update[7] = 50.0
    form = Rounded(sizes) if layout.scaled else layout.dtype
    gate = Gate(0.5, noise, update.size)
    sent = mechanism.seal(update.__getitem__, gate, layout.header, form, tmp_path / "payload").path
    values = payload.read_values(sent, layout, slice(0, update.size)).astype(np.float64)
    agreed = asked(privacy=UPDATE | {"noise_multiplier": noise}, payload=payload_encoding)
    bound = largest_honest_norm(agreed, update.size)
    assert np.linalg.norm(values) <= bound * (1 + 1e-7)
    if noise == 2.0:
        assert np.linalg.norm(values) > 0.8 * bound, "and not far below, or it would let anything in"


def test_the_slack_of_an_encoding() -> None:
    exact = largest_honest_norm(asked(privacy=UPDATE), 10_000)
    assert exact == 0.5 * (1 + 2.0 * 106)
    half = largest_honest_norm(asked(privacy=UPDATE, payload="float16"), 10_000)
    assert half == pytest.approx(exact * (1 + 2**-11) + 100 * 2**-25)
    step = 0.5 * (1 + 2.0 * (math.sqrt(2 * math.log(10_000)) + 6)) / 127
    assert largest_honest_norm(asked(privacy=UPDATE, payload="int8"), 10_000) == pytest.approx(exact + 100 * step)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_under_dp_sgd_a_step_is_a_share_of_what_one_value_can_move(optimizer: str) -> None:
    local = {"steps": 30, "patch_voxels": [16, 16, 16], "optimizer": optimizer, "learning_rate": 0.01}
    plain, rounded = (
        largest_honest_norm(asked(privacy=dp_sgd(), local=local, payload=encoding), 10_000)
        for encoding in ("float32", "int8")
    )
    if optimizer == "adam":
        assert rounded - plain == pytest.approx(100 * ADAMS_REACH * 0.01 * 30 / 127)
    assert plain < rounded < 1.5 * plain


def test_one_value_is_enough() -> None:
    assert math.isfinite(largest_honest_norm(asked(payload="int8"), 1))
