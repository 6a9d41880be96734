"""A patient is withdrawn while a round waits to go on: nothing that has seen the patient leaves after that."""

import hashlib
from pathlib import Path

import pytest
from support.federation import Server, plan_file
from support.site import Site, prepare_blobs

from fedsite.dataset import manifest

PREPARATION = {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]}
LOCAL = {"steps": 1, "batch_size": 1, "patch_voxels": [16, 16, 16]}


@pytest.mark.fault(
    part="training",
    what="a patient is withdrawn while a round waits to go on",
    where="after the charge, before the release",
    promised="the round trains again without the patient, under the same charge",
)
def test_the_round_trains_again_without_the_patient(server: Server, site: Site, tmp_path: Path) -> None:
    prepare_blobs(site)
    patient = manifest.load(site.data).of_split("training")[0].patient
    before = hashlib.sha256((site.data / manifest.FILE_NAME).read_bytes()).hexdigest()
    plan = plan_file(tmp_path, preparation=PREPARATION, local=LOCAL)
    site.ok("model", "init", str(plan), "-o", str(tmp_path / "model.safetensors"))
    number = server.open_series(plan, tmp_path / "model.safetensors")
    site.killed("after:reserved", "train-round")
    assert site.round_state(number)[1]["data_sha256"] == before

    site.ok("data", "exclude", patient, "--yes")
    assert site.ok("train-round")["outcome"] == "uploaded"

    body = site.round_state(number)[1]
    assert body["data_sha256"] == hashlib.sha256((site.data / manifest.FILE_NAME).read_bytes()).hexdigest() != before
    charges = [record for record in site.ledger() if record["kind"] == "reserved" and record["round"] == number]
    assert len(charges) == 1, "what was reserved pays for the round that is trained anew"
