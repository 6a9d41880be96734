"""A budget that does not pay: exit 81 before any training, and nothing left the site."""

from pathlib import Path
from typing import Any

import pytest
from support.federation import Server, dp_sgd, plan_file
from support.site import Site, prepare_blobs

from fedsite.privacy.statement import NOT_PRIVATE, guarantee
from fedsite.server.rounds import reports
from fedsite.site.policy import NO_PRIVACY_SENTENCE

LOCAL = {"steps": 3, "batch_size": 1, "patch_voxels": [16, 16, 16]}
PREPARATION = {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]}

GAUSSIAN = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0}
DP_SGD = dp_sgd(noise_multiplier=0.0)


def test_budget_too_small(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "poor")
    site.init(epsilon=8)
    site.enroll(server.invite("poor"))
    prepare_blobs(site)
    number = server.open_round(tmp_path, local=LOCAL, preparation=PREPARATION)

    answer = site.run("train-round")

    assert answer.code == 81
    assert answer.json["outcome"] == "refused"
    assert answer.json["error"]["code"] == "budget-spent"
    assert "budget is epsilon 8" in answer.json["error"]["message"]
    assert [body["kind"] for body in site.ledger()] == ["created"]
    assert site.round_state(number)[0] == "offered", "refused before the model was even fetched"
    for folder in ("models", "checkpoints", "outbox"):
        assert not list((site.state / folder).iterdir())
    report = reports.round_report(server.federation, number)
    assert report["refused"] == [{"site": "poor", "reason": "budget"}], "the server learns one word, no more"
    assert report["took_part"] == []
    with site.open_state() as state:
        assert any(record.body["event"] == "refused" for record in state.records("audit"))


def test_policy_tightens_the_budget(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, local={"steps": 0, "patch_voxels": [16, 16, 16]})
    site.configure(policy={"maximum_epsilon": 10})
    assert site.run("train-round").code == 81
    site.configure(policy={"maximum_epsilon": None, "weak_privacy": ""})
    refused = site.run("train-round")
    assert refused.code == 80
    assert "policy.weak_privacy" in refused.json["error"]["message"]
    assert reports.round_report(server.federation, number)["refused"] == [{"site": "site-a", "reason": "policy"}]


@pytest.mark.parametrize("privacy", [GAUSSIAN, DP_SGD], ids=lambda privacy: privacy["mechanism"])
def test_without_noise_every_output_says_not_private(server: Server, tmp_path: Path, privacy: dict[str, Any]) -> None:
    site = Site(tmp_path / "open")
    site.init(epsilon=8)
    site.enroll(server.invite(f"open-{privacy['mechanism']}"))
    prepare_blobs(site)
    plan = plan_file(tmp_path, local=LOCAL, preparation=PREPARATION, privacy=privacy)
    site.ok("model", "init", str(plan), "-o", str(tmp_path / "model.safetensors"))
    server.open_series(plan, tmp_path / "model.safetensors")
    assert site.run("train-round").code == 80
    site.configure(policy={"no_privacy": NO_PRIVACY_SENTENCE})

    shown = site.ok("train-round", "--dry-run")["data"]["guarantee_after"]
    said = [site.say("train-round", "--dry-run").stdout]
    done = site.ok("train-round")["data"]
    told = [shown, done["guarantee"], site.ok("privacy", "show")["data"]["guarantee"]]
    told += [site.ok("status")["data"]["privacy"]["guarantee"]]
    told += [one["guarantee"] for one in site.ok("audit", "show")["data"]["records"] if one["event"] == "stated"]
    assert told == [guarantee(None, 1e-6)] * 5
    assert told[0].startswith(NOT_PRIVATE)
    server.open_series(plan, tmp_path / "model.safetensors")
    commands = (("train-round",), ("status",), ("privacy", "show"), ("privacy", "history"), ("audit", "show"))
    said += [site.say(*command).stdout for command in commands]
    said += [Path(done["report"]).read_text()]
    assert [NOT_PRIVATE in text for text in said] == [True] * 7
