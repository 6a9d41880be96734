"""The real acute stroke case (ISLES'22, BIDS, b = 800, skull-stripped): prepared, then one whole round."""

from pathlib import Path

import pytest
from support.federation import Server, plan_file
from support.site import Site

from fedsite.privacy.statement import NO_MEANINGFUL_GUARANTEE
from fedsite.server.rounds import reports
from fedsite.wire.payload import layout_of

PREPARATION = {"input_state": "skull-stripped", "spacing_mm": [2.0, 2.0, 2.0]}


@pytest.mark.slow
def test_prepare_and_one_round(server: Server, site: Site, real_data: Path, tmp_path: Path) -> None:
    case = real_data / "labels_isles22" / "strokecase0009"
    # One patient alone must not be held out by the keyed hash.
    site.configure(preparation={"validation_fraction": 0.0})
    prepared = site.ok("prepare-data", str(case), "--task", "stroke-dwi")
    assert prepared["outcome"] == "prepared"
    assert prepared["data"]["input_state"] == "skull-stripped"
    # b = 800 is stated by the data set's paper, not by its files: fedsite says what it took for granted.
    assert (site.data / "report.html").is_file()

    local = {"steps": 2, "batch_size": 2, "patch_voxels": [32, 32, 32], "learning_rate": 0.01}
    plan = plan_file(tmp_path, preparation=PREPARATION, local=local)
    model = tmp_path / "model.safetensors"
    site.ok("model", "init", str(plan), "-o", str(model))
    number = server.open_series(plan, model)

    preview = site.ok("train-round", "--dry-run")
    assert preview["outcome"] == "previewed"
    assert preview["data"]["norm_before"] > 0
    assert preview["data"]["epsilon_before"] == 0 < preview["data"]["epsilon_after"]
    assert preview["data"]["bytes"] == layout_of(model).file_bytes
    assert not reports.round_report(server.federation, number)["took_part"], "a dry run sends nothing"
    assert [body["kind"] for body in site.ledger()] == ["created"], "a dry run charges nothing"

    took_part = site.ok("train-round")
    assert took_part["outcome"] == "uploaded"
    assert took_part["data"]["epsilon"] == pytest.approx(preview["data"]["epsilon_after"])
    assert NO_MEANINGFUL_GUARANTEE in took_part["data"]["guarantee"]
    at_server = reports.round_report(server.federation, number)["took_part"]
    assert [one["update_sha256"] for one in at_server] == [took_part["data"]["payload_sha256"]]
    told = [site.ok("privacy", "show")["data"]["guarantee"], site.ok("status")["data"]["privacy"]["guarantee"]]
    assert told == [took_part["data"]["guarantee"]] * 2, "one wording everywhere"
