"""A budget that does not pay: exit 81 before any training, and nothing left the site."""

from pathlib import Path

from support.federation import Server
from support.site import Site, prepare_blobs

from fedsite.server import reports

LOCAL = {"steps": 3, "batch_size": 1, "patch_voxels": [16, 16, 16]}
PREPARATION = {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]}


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
        assert any(record.body["event"] == "round refused" for record in state.records("audit"))


def test_policy_tightens_the_budget(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, local={"steps": 0, "patch_voxels": [16, 16, 16]})
    site.configure(policy={"maximum_epsilon": 10})
    assert site.run("train-round").code == 81
    site.configure(policy={"maximum_epsilon": None, "weak_privacy": ""})
    refused = site.run("train-round")
    assert refused.code == 80
    assert "policy.weak_privacy" in refused.json["error"]["message"]
    assert reports.round_report(server.federation, number)["refused"] == [{"site": "site-a", "reason": "policy"}]


def test_without_noise_every_output_says_not_private(server: Server, tmp_path: Path) -> None:
    from fedsite.site.config import NO_PRIVACY_SENTENCE

    site = Site(tmp_path / "open")
    site.init(epsilon=8)
    site.enroll(server.invite("open"))
    privacy = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0}
    server.open_round(tmp_path, local={"steps": 0, "patch_voxels": [16, 16, 16]}, privacy=privacy)
    assert site.run("train-round").code == 80
    site.configure(policy={"no_privacy": NO_PRIVACY_SENTENCE})
    told = [site.ok("train-round")["data"]["guarantee"]]
    told += [site.ok("privacy", "show")["data"]["guarantee"], site.ok("status")["data"]["privacy"]["guarantee"]]
    assert all(text.startswith("not private") for text in told)
    assert "not private" in site.say("privacy", "show").stdout
    assert "not private" in site.say("status").stdout
