"""`kill -9` of a dp-sgd round at the boundaries that are its own, and in the middle of its training, then a rerun.

Promised: the charge is there before the first private step, once; nothing of a training that was cut off ever leaves,
so it may go on or begin anew under the same reservation; one update at the server, the bytes that were released.
"""

from pathlib import Path
from typing import Any

import pytest
from support.federation import Server, dp_sgd, plan_file
from support.site import Site, prepare_blobs

from fedsite.dataset import manifest
from fedsite.server.rounds import reports

PREPARATION = {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]}
STEPS = 3
PLAN = {
    "preparation": PREPARATION,
    "privacy": dp_sgd(batch_patients=5, noise_multiplier=2.0),
    "local": {"steps": STEPS, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600},
}


@pytest.fixture
def number(server: Server, site: Site, tmp_path: Path) -> int:
    """A round that is open for the site, which has data."""
    if not site.data.exists():
        prepare_blobs(site, size=20)
        site.configure(training={"checkpoint_minutes": 1e-6, "evaluate": False})
    plan, model = plan_file(tmp_path, **PLAN), tmp_path / "model.safetensors"
    site.ok("model", "init", str(plan), "-o", str(model))
    return server.open_series(plan, model)


def of_round(site: Site, number: int, kind: str) -> list[dict[str, Any]]:
    return [body for body in site.ledger() if body["kind"] == kind and body["round"] == number]


def assert_once(server: Server, site: Site, number: int) -> str:
    """One charge for all steps, one release, one receipt, one update at the server; no raw weights lie about."""
    [charge] = of_round(site, number, "reserved")
    assert (charge["mechanism"], charge["steps"], charge["sampling_rate"]) == ("dp-sgd", STEPS, 0.05)
    assert (charge["sensitivity"], charge["effective"]) == (1.0, {"sigma": 2.0, "sampling_rate": 0.05, "steps": STEPS})
    assert "os.urandom" in charge["generator"]
    assert [len(of_round(site, number, kind)) for kind in ("released", "acknowledged")] == [1, 1]
    digest: str = of_round(site, number, "released")[0]["payload_sha256"]
    took_part = reports.round_report(server.federation, number)["took_part"]
    assert [(update["site"], update["update_sha256"]) for update in took_part] == [("site-a", digest)]
    assert not list((site.state / "checkpoints").iterdir())
    assert site.ok("audit", "verify")["outcome"] == "whole"
    return digest


@pytest.mark.fault(
    part="training",
    what="kill -9 of a dp-sgd round, and in the middle of its training",
    where="its boundaries, the second training step",
    promised="charged before the first private step, once; nothing of a training that was cut off leaves",
)
@pytest.mark.parametrize(
    ("where", "charged", "released"),
    [
        ("before:reserved", 1, 0),  # the ledger has it already, the round's state not yet
        ("after:reserved", 1, 0),
        ("step:2", 1, 0),
        ("before:trained", 1, 0),
        ("after:trained", 1, 0),
        ("after:released", 1, 1),
    ],
)
def test_kill_at_a_boundary_of_its_own(
    server: Server, site: Site, number: int, where: str, charged: int, released: int
) -> None:
    site.killed(where, "train-round")
    assert len(of_round(site, number, "reserved")) == charged, "charged before the first step, and once"
    before = [body["payload_sha256"] for body in of_round(site, number, "released")]
    assert len(before) == released
    state = site.round_state(number)[0]

    answer = site.ok("train-round")

    assert answer["outcome"] == "uploaded"
    digest = assert_once(server, site, number)
    assert not before or before == [digest]
    if where == "step:2":
        assert state == "reserved"
        assert site.round_state(number)[1]["training"]["steps"] == STEPS


def test_weights_that_went_missing_are_trained_again_under_the_same_charge(
    server: Server, site: Site, number: int
) -> None:
    site.killed("after:trained", "train-round")
    for path in (site.state / "checkpoints").iterdir():
        path.unlink()
    for path in (site.state / "models").iterdir():
        path.unlink()
    assert site.ok("train-round")["outcome"] == "uploaded"
    assert_once(server, site, number)


def test_a_withdrawn_patient_never_leaves(server: Server, site: Site, number: int) -> None:
    site.killed("after:trained", "train-round")
    before = site.round_state(number)[1]["data_sha256"]
    site.ok("data", "exclude", manifest.load(site.data).of_split("training")[0].patient, "--yes")
    assert site.ok("train-round")["outcome"] == "uploaded"
    assert site.round_state(number)[1]["data_sha256"] != before
    assert_once(server, site, number)


def test_a_dry_run_charges_nothing_and_throws_its_training_away(server: Server, site: Site, number: int) -> None:
    records = len(site.ledger())
    shown = site.ok("train-round", "--dry-run")
    assert (shown["outcome"], shown["data"]["norm_before"]) == ("previewed", None)
    assert "delta 1e-06" in shown["data"]["guarantee_after"]
    assert len(site.ledger()) == records
    assert site.round_state(number)[0] == "fetched"
    assert not list((site.state / "checkpoints").iterdir())
    done = site.ok("train-round")
    assert done["data"]["guarantee"] == shown["data"]["guarantee_after"], "word for word the same"
    assert_once(server, site, number)


def test_a_charged_round_has_no_preview(site: Site, number: int) -> None:
    site.killed("after:reserved", "train-round")
    answer = site.run("train-round", "--dry-run")
    assert (answer.code, answer.json["error"]["code"]) == (75, "try-again-later")
    assert site.ok("train-round")["outcome"] == "uploaded"


def test_a_plan_for_more_patients_than_were_typed_is_refused_before_anything(
    server: Server, site: Site, tmp_path: Path
) -> None:
    """The site typed 100 when its ledger was made; nobody counts how many it has."""
    plan, model = plan_file(tmp_path, **PLAN | {"privacy": dp_sgd(batch_patients=101)}), tmp_path / "model.safetensors"
    site.ok("model", "init", str(plan), "-o", str(model))
    number, records = server.open_series(plan, model), len(site.ledger())
    answer = site.run("train-round")
    assert (answer.code, answer.json["error"]["code"]) == (80, "policy-refused")
    assert "101 patients a step" in answer.json["error"]["message"]
    assert "ledger was made for 100" in answer.json["error"]["message"]
    assert len(site.ledger()) == records
    assert site.round_state(number)[0] == "offered"


def test_what_the_budget_does_not_pay_is_refused_before_any_training(
    server: Server, site: Site, tmp_path: Path
) -> None:
    plan, model = plan_file(tmp_path, **PLAN), tmp_path / "model.safetensors"
    site.ok("model", "init", str(plan), "-o", str(model))
    number = server.open_series(plan, model)
    site.configure(policy={"maximum_epsilon": 1e-6})
    try:
        answer = site.run("train-round")
    finally:
        site.configure(policy={"maximum_epsilon": None})
    assert (answer.code, answer.json["error"]["code"]) == (81, "budget-spent")
    assert site.round_state(number)[0] == "offered", "neither fetched nor trained"
    assert site.ok("train-round")["outcome"] == "uploaded"
