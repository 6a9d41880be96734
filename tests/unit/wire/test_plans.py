"""The plan's YAML."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.federation import dp_sgd, plan

from fedsite.errors import ConfigurationError, SourceMissing
from fedsite.wire.messages import parse
from fedsite.wire.plans import Plan, PlanDraft, complete, kind, read_draft
from fedsite.wire.signing import public_key


@pytest.mark.parametrize("changes", [{}, {"privacy": dp_sgd(patches_per_patient=3)}])
def test_a_plan_is_read_completed_and_survives_the_wire(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan(**changes)))
    draft = read_draft(tmp_path / "plan.yaml")
    keys = [public_key(Ed25519PrivateKey.generate()) for _ in range(2)]
    whole = complete(draft, *keys)
    assert (whole.round_key, whole.receipt_key) == tuple(keys)
    assert parse(Plan, whole.to_bytes()) == whole
    assert whole.model_dump(exclude={"round_key", "receipt_key"}) == draft.model_dump()


def kind_of(content: dict[str, Any]) -> str:
    return kind(parse(PlanDraft, json.dumps(content).encode()))


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": "another-name"},
        {"expires": "2040-01-01T00:00:00Z"},
        {"local": plan()["local"] | {"seed": 7}},
        {"server_momentum": 0.0},
        {"algorithm": "fedavg", "weights": "equal"},
    ],
)
def test_a_kind_does_not_hang_on_names_dates_and_seeds(changes: dict[str, Any]) -> None:
    assert kind_of(plan(**changes)) == kind_of(plan())


def test_a_kind_does_not_hang_on_the_servers_keys(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan()))
    draft = read_draft(tmp_path / "plan.yaml")
    whole = [complete(draft, *(public_key(Ed25519PrivateKey.generate()) for _ in range(2))) for _ in range(2)]
    assert {kind(one) for one in whole} == {kind(draft)}


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": "others"},
        {"task": "stroke-flair"},
        {"task_digest": "0" * 64},
        {"channels": ["dwi", "adc"]},
        {"preparation": {"input_state": "skull-stripped", "spacing_mm": [3.0, 3.0, 3.0]}},
        {"network": {"name": "unet", "settings": {"channels": [4, 9]}}},
        {"algorithm": {"name": "fedprox", "mu": 0.1}},
        {"local": plan()["local"] | {"steps": 2}},
        {"local": plan()["local"] | {"learning_rate": 0.002}},
        {"privacy": plan()["privacy"] | {"noise_multiplier": 0.0999}},
        {"privacy": plan()["privacy"] | {"clip_norm": 2.0}},
        {"privacy": dp_sgd()},
        {"max_update_norm": 1e5},
        {"weights": "declared"},
        {"payload": "float16"},
        {"rounds": plan()["rounds"] | {"quorum": 2}},
        {"server_momentum": 0.5},
    ],
)
def test_a_kind_hangs_on_all_else(changes: dict[str, Any]) -> None:
    assert kind_of(plan(**changes)) != kind_of(plan())


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[", "no YAML"),
        ("", "cannot be used"),
        (yaml.safe_dump({key: value for key, value in plan().items() if key != "rounds"}), "used: rounds is missing"),
        (yaml.safe_dump(plan() | {"more": 1}), "more"),
        (yaml.safe_dump(plan(rounds={"quorum": 3, "enough": 2, "deadline_seconds": 5})), "enough"),
        (yaml.safe_dump(plan(local={"steps": 1, "patch_voxels": [17, 16, 16]})), "patch_voxels"),
        (yaml.safe_dump(plan(max_update_norm=float("nan"))), "NaN"),
        (yaml.safe_dump(plan(expires="2027-01-01")), "expires"),
        ("schema: !!python/object/apply:os.system [true]", "no YAML"),
        ("schema: !!binary aGVsbG8=", "no place in a plan"),
        ("x" * (1 << 21), "larger"),
    ],
)
def test_a_wrong_plan_names_its_key(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=where):
        read_draft(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("privacy", "local", "where"),
    [
        ({"batch_patients": 0}, {}, "batch_patients"),
        ({"batch_patients": 2.5}, {}, "batch_patients"),
        ({"patches_per_patient": 0}, {}, "patches_per_patient"),
        ({"clip_norm": 0.0}, {}, "clip_norm"),
        ({"sampling_rate": 0.1}, {}, "sampling_rate"),
        ({"steps": 10}, {}, "steps"),
        ({"noise_multiplier": -1.0}, {}, "noise_multiplier"),
        ({"mechanism": "dp-ftrl"}, {}, "privacy"),
        ({}, {"steps": 0}, r"dp-sgd needs local\.steps of at least 1"),
        ({}, {"accumulation": 2}, r"local\.accumulation 1"),
        ({}, {"early_stop": {"every": 1, "patience": 1}}, r"local\.early_stop: not under a private mechanism"),
        ({"noise_multiplier": 0.0}, {"early_stop": {"every": 1, "patience": 1}}, r"local\.early_stop"),
        ({}, {"schedule": "plateau"}, "schedule"),
        ({}, {"train": "encoder"}, "train"),
        ({}, {"ema": 1.0}, "ema"),
    ],
)
def test_a_private_plan_outside_its_schema_names_its_key(
    tmp_path: Path, privacy: dict[str, Any], local: dict[str, Any], where: str
) -> None:
    asked = plan(privacy=dp_sgd(**privacy), local={"steps": 4, "patch_voxels": [16, 16, 16]} | local)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(asked))
    with pytest.raises(ConfigurationError, match=where):
        read_draft(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("train", "keep", "learns"),
    [
        ("head", "head", False),
        ("head", "decoder", False),
        ("decoder", "decoder", False),
        ("decoder", "head", True),
        ("all", "decoder", True),
    ],
)
def test_something_that_travels_must_learn(tmp_path: Path, train: str, keep: str, learns: bool) -> None:
    local = {"steps": 4, "patch_voxels": [16, 16, 16], "train": train}
    asked = plan(privacy=dp_sgd(), local=local, algorithm={"name": "personal", "keep": keep})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(asked))
    if learns:
        assert read_draft(tmp_path / "plan.yaml").local.train == train
    else:
        with pytest.raises(ConfigurationError, match=rf"local\.train: {train}: nothing of what travels would learn"):
            read_draft(tmp_path / "plan.yaml")


def test_a_moving_average_and_an_early_stop_do_not_go_together(tmp_path: Path) -> None:
    local = {"steps": 4, "patch_voxels": [16, 16, 16], "ema": 0.9, "early_stop": {"every": 1, "patience": 1}}
    privacy = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan(local=local, privacy=privacy)))
    with pytest.raises(ConfigurationError, match="ema: not with early_stop"):
        read_draft(tmp_path / "plan.yaml")


def test_what_a_plan_does_not_ask_for_is_not_in_it() -> None:
    """So that a plan without the newer settings is, byte for byte, what an older site reads."""
    local = json.loads(parse(PlanDraft, json.dumps(plan()).encode()).to_bytes())["local"]
    assert not {"train", "ema", "accumulation", "early_stop"} & local.keys()


def test_an_instant_may_be_written_as_yaml_does(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in plan().items() if key != "expires"})
    (tmp_path / "plan.yaml").write_text(text + "expires: 2030-01-02T03:04:05Z\n")
    assert read_draft(tmp_path / "plan.yaml").expires.isoformat() == "2030-01-02T03:04:05+00:00"


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        read_draft(tmp_path / "plan.yaml")


def test_a_newer_file_is_refused_as_such_and_not_by_its_keys(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan(schema=2, teleport=True)))
    with pytest.raises(ConfigurationError, match="has schema 2, a newer fedsite's; this fedsite knows 1") as refused:
        read_draft(tmp_path / "plan.yaml")
    assert refused.value.exit_code == 78
    assert refused.value.mend.startswith("Install that fedsite here")
