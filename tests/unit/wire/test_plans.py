"""The plan's YAML."""

from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.federation import plan

from fedsite.errors import ConfigurationError, SourceMissing
from fedsite.wire.messages import parse
from fedsite.wire.plans import Plan, complete, read_draft
from fedsite.wire.signing import public_key


def test_a_plan_is_read_completed_and_survives_the_wire(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan()))
    draft = read_draft(tmp_path / "plan.yaml")
    keys = [public_key(Ed25519PrivateKey.generate()) for _ in range(2)]
    whole = complete(draft, *keys)
    assert (whole.round_key, whole.receipt_key) == tuple(keys)
    assert parse(Plan, whole.to_bytes()) == whole
    assert whole.model_dump(exclude={"round_key", "receipt_key"}) == draft.model_dump()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[", "no YAML"),
        ("", "cannot be used"),
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


def test_an_instant_may_be_written_as_yaml_does(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in plan().items() if key != "expires"})
    (tmp_path / "plan.yaml").write_text(text + "expires: 2030-01-02T03:04:05Z\n")
    assert read_draft(tmp_path / "plan.yaml").expires.isoformat() == "2030-01-02T03:04:05+00:00"


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        read_draft(tmp_path / "plan.yaml")
