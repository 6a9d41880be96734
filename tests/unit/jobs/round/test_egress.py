"""What is told of a release: per block of the network, for this site's people, and nothing that is not so."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support import federation

from fedsite.errors import DataNotFit
from fedsite.jobs.round import egress
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import Update
from fedsite.privacy.ledger import Spent
from fedsite.privacy.mechanism import CHUNK, STEPS_PER_CLIP_NORM
from fedsite.privacy.statement import guarantee
from fedsite.site.state import State
from fedsite.wire import payload
from fedsite.wire.plans import PlanDraft

SHAPES = {
    "model.0.conv.weight": (9, 7),
    "model.0.conv.bias": (9,),
    "model.1.submodule.conv.weight": (CHUNK + 11,),
    "model.2.conv.weight": (4, 5),
}
BLOCKS = {"encoder 1": 72, "bottom": CHUNK + 11, "head": 20}
BEFORE, AFTER = Spent(epsilon=1.5), Spent(epsilon=30.0)
DP_SGD = {"mechanism": "dp-sgd", "clip_norm": 0.5, "noise_multiplier": 2.0, "batch_patients": 4}


def gaussian(clip_norm: float, noise_multiplier: float) -> dict[str, object]:
    return {"mechanism": "gaussian-update", "clip_norm": clip_norm, "noise_multiplier": noise_multiplier}


def update(folder: Path, scale: float = 0.01) -> tuple[Update, dict[str, np.ndarray]]:
    """An update between two models, and its tensors."""
    before, change = federation.tensors(1, SHAPES), federation.tensors(2, SHAPES, scale)
    change["model.0.conv.bias"][:] = 0
    payload.write_model(folder / "global.safetensors", before)
    payload.write_model(folder / "trained.safetensors", {name: before[name] + change[name] for name in before})
    found = local_work.open_update(folder / "global.safetensors", folder / "trained.safetensors")
    trained = payload.tensors_of(folder / "trained.safetensors")
    return found, {name: trained[name].astype(np.float64) - before[name] for name in before}


def described(folder: Path, privacy: dict[str, object], scale: float = 0.01) -> tuple[egress.Record, dict]:
    found, tensors = update(folder, scale)
    plan: PlanDraft = federation.draft(folder, privacy=privacy)
    return egress.describe(plan, found, BEFORE, AFTER, 1e-6), tensors


def test_a_clip_norm_that_is_far_too_large_is_seen(tmp_path: Path) -> None:
    """Steps of a release are clip_norm / 2^20: here of 0.1, and of next to nothing where the update is clipped."""
    assert described(tmp_path, gaussian(1e5, 0.0))[0]["lost_on_the_grid"] > 0.5
    assert described(tmp_path, gaussian(0.25, 0.0))[0]["lost_on_the_grid"] < 1e-3


def test_blocks_have_the_norms_of_their_tensors(tmp_path: Path) -> None:
    record, tensors = described(tmp_path, gaussian(0.25, 3.0))
    whole = np.concatenate([values.ravel() for values in tensors.values()])
    norm = float(np.linalg.norm(whole))
    assert norm > 0.25, "this update is clipped"
    assert record["norm_before"] == pytest.approx(norm)
    assert record["norm_after"] == pytest.approx(0.25, rel=1e-3)
    assert record["noise_standard_deviation"] == pytest.approx(0.75)
    assert record["noise_norm"] == pytest.approx(0.75 * math.sqrt(whole.size))
    assert record["signal_to_noise"] == pytest.approx(0.25 / record["noise_norm"], rel=1e-3)
    assert record["signal_to_noise_at_most"] == pytest.approx(1 / (3 * math.sqrt(whole.size)))

    assert {block["name"]: block["values"] for block in record["blocks"]} == BLOCKS
    first, bottom = record["blocks"][:2]
    own = np.concatenate([tensors["model.0.conv.weight"].ravel(), tensors["model.0.conv.bias"]])
    assert first["norm_before"] == pytest.approx(np.linalg.norm(own))
    assert first["norm_after"] == pytest.approx(np.linalg.norm(own) * 0.25 / norm, rel=1e-3)
    assert first["noise_norm"] == pytest.approx(0.75 * math.sqrt(72))
    assert first["signal_to_noise"] == pytest.approx(first["norm_after"] / first["noise_norm"])
    assert first["zeros"] == 9
    assert math.hypot(*(block["norm_after"] for block in record["blocks"])) == pytest.approx(record["norm_after"])
    assert bottom["values"] == bottom["zeros"] + sum(bottom["counts"])


def test_a_histogram_counts_by_powers_of_two(tmp_path: Path) -> None:
    record, tensors = described(tmp_path, gaussian(8.0, 1.0))
    grid = 8.0 / STEPS_PER_CLIP_NORM
    values = grid * np.trunc(np.abs(np.concatenate([tensors[name].ravel() for name in SHAPES])) / grid)
    for exponent, count in enumerate(record["counts"], record["lowest"]):
        assert count == np.count_nonzero((values >= 2.0 ** (exponent - 1)) & (values < 2.0**exponent))
    assert len(record["counts"]) > 8
    assert record["zeros"] + sum(record["counts"]) == record["values"] == values.size


def test_epsilons_are_stated_before_and_after(tmp_path: Path) -> None:
    record, _ = described(tmp_path, gaussian(1.0, 1.0))
    assert (record["epsilon_before"], record["epsilon_after"]) == (1.5, 30.0)
    assert record["guarantee_before"] == guarantee(1.5, 1e-6)
    assert record["guarantee_after"] == guarantee(30.0, 1e-6)
    json.dumps(record, allow_nan=False)


def test_without_noise_there_is_no_ratio_to_it(tmp_path: Path) -> None:
    record, _ = described(tmp_path, gaussian(1.0, 0.0))
    assert record["noise_standard_deviation"] == record["noise_norm"] == 0
    assert record["signal_to_noise"] is record["signal_to_noise_at_most"] is None
    assert all(block["signal_to_noise"] is None for block in record["blocks"])


def test_under_dp_sgd_the_noise_is_in_the_steps(tmp_path: Path) -> None:
    record, tensors = described(tmp_path, DP_SGD)
    whole = np.concatenate([values.ravel() for values in tensors.values()])
    assert record["norm_after"] == pytest.approx(np.linalg.norm(whole)), "nothing is clipped here"
    assert record["noise_standard_deviation"] == pytest.approx(2.0 * 0.5 / 4)
    assert record["signal_to_noise_at_most"] == pytest.approx(4 / (2 * math.sqrt(whole.size)))
    for one in (record, *record["blocks"]):
        assert one["norm_before"] is one["noise_norm"] is one["signal_to_noise"] is None


@pytest.mark.parametrize("privacy", [gaussian(1.0, 1.0), DP_SGD])
def test_what_the_gate_refuses_is_not_described(tmp_path: Path, privacy: dict[str, object]) -> None:
    with pytest.raises(DataNotFit, match="not finite"), np.errstate(over="ignore"):
        described(tmp_path, privacy, scale=math.inf)


def test_records_are_kept_in_order_for_this_user_alone(tmp_path: Path) -> None:
    with State.create(tmp_path / "state") as state:
        assert egress.kept(state) == {}
        for number in (10, 2, 2):
            egress.keep(state, number, {"values": number})
        assert list(egress.kept(state).items()) == [(2, {"values": 2}), (10, {"values": 10})]
    files = list((tmp_path / "state" / "egress").iterdir())
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
