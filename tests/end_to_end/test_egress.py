"""What leaves, as a site's people see it: before, in a dry run, and after, in the round's page and record."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from support.federation import NAME, Server, dp_sgd, plan_file
from support.site import Site, prepare_blobs

from fedsite.privacy.statement import guarantee

PREPARATION = {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]}
LOCAL = {"steps": 2, "batch_size": 1, "patch_voxels": [16, 16, 16]}
GAUSSIAN = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 2.0}
DP_SGD = dp_sgd(noise_multiplier=2.0, batch_patients=5)
NUMBERS = itertools.count()
BLOCKS = ["encoder 1", "bottom", "head"]
AT_HOME = ("norm_before", "norm_after", "lost_on_the_grid", "counts", "blocks")


def open_round(server: Server, site: Site, folder: Path, privacy: dict[str, Any]) -> int:
    """A round of a small U-Net, and four patients to train on."""
    prepare_blobs(site)
    plan = plan_file(folder, local=LOCAL, preparation=PREPARATION, privacy=privacy)
    site.ok("model", "init", str(plan), "-o", str(folder / "model.safetensors"))
    return server.open_series(plan, folder / "model.safetensors")


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Site:
    """A site whose budget is one that a private training can be priced within."""
    site = Site(tmp_path / "site")
    site.init(epsilon=60)
    site.enroll(server.invite(f"site-{next(NUMBERS)}"))
    return site


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("privacy", [GAUSSIAN, DP_SGD], ids=lambda privacy: privacy["mechanism"])
def test_a_rounds_release_is_shown_before_and_after(
    server: Server, site: Site, tmp_path: Path, privacy: dict[str, Any]
) -> None:
    number, charged = open_round(server, site, tmp_path, privacy), site.ledger()
    shown = site.ok("train-round", "--dry-run")["data"]
    said = site.say("train-round", "--dry-run").stdout

    assert [block["name"] for block in shown["blocks"]] == BLOCKS
    assert sum(block["values"] for block in shown["blocks"]) == shown["values"]
    for words in (*BLOCKS, shown["guarantee_before"], shown["guarantee_after"], "█", privacy["mechanism"]):
        assert words in said
    record = site.state / "egress" / f"round-{number}.json"
    assert site.ledger() == charged, "a dry run charges nothing"
    assert not record.exists(), "nothing left: there is nothing to keep"

    site.killed("upload:1", "train-round")
    assert files(site.state / "checkpoints") == [], "raw weights go once the payload is sealed"
    assert files(site.state / "outbox") == [f"round-{number}.safetensors"], "the payload stays until it is acknowledged"
    done = site.ok("train-round")["data"]
    assert files(site.state / "outbox") == []

    assert record.stat().st_mode & 0o777 == 0o600
    kept = json.loads(record.read_bytes())
    if privacy is GAUSSIAN:
        assert kept == {key: value for key, value in shown.items() if key != "round"}, "training is deterministic"
    assert (kept["bytes"], kept["guarantee_after"]) == (done["bytes_sent"], done["guarantee"])
    page = Path(done["report"]).read_text()
    for words in (*BLOCKS, "What left", kept["guarantee_before"], kept["guarantee_after"]):
        assert words in page
    sent = b"".join(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())
    assert not any(f'"{name}"'.encode() in sent for name in AT_HOME), "norms and histograms stay at home"


@pytest.mark.parametrize("privacy", [GAUSSIAN, DP_SGD], ids=lambda privacy: privacy["mechanism"])
def test_a_round_is_stated_in_the_same_words_everywhere(
    server: Server, site: Site, tmp_path: Path, privacy: dict[str, Any]
) -> None:
    number = open_round(server, site, tmp_path, privacy)
    done = site.ok("train-round")["data"]
    words = done["guarantee"]
    assert words == guarantee(done["epsilon"], done["delta"])
    assert site.ok("status")["data"]["privacy"]["guarantee"] == words
    assert site.ok("privacy", "show")["data"]["guarantee"] == words
    stated = [one for one in site.ok("audit", "show")["data"]["records"] if one["event"] == "stated"]
    assert [(one["round"], one["guarantee"]) for one in stated] == [(number, words)]
    for command in (("status",), ("privacy", "show"), ("audit", "show")):
        assert words in site.say(*command).stdout, command
    assert words in Path(done["report"]).read_text()
    assert NAME in Path(done["report"]).read_text()
