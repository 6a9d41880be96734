"""`kill -9` of train-round at each state boundary and in the middle of the upload, then a rerun.

Promised (laws 1 and 2): one update at the server, one charge in the ledger, the same bytes once released.
"""

from pathlib import Path
from typing import Any

import pytest
from support.federation import Server
from support.site import Site

from fedsite.files import sha256_of
from fedsite.server.rounds import reports

STATES = ("offered", "fetched", "trained", "reserved", "released", "uploading", "acknowledged")
PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600},
}
LARGE = {"first.weight": (300, 300), "last.weight": (100, 100)}


def of_round(site: Site, number: int, kind: str) -> list[dict[str, Any]]:
    return [body for body in site.ledger() if body["kind"] == kind and body["round"] == number]


def contributions(server: Server, number: int) -> list[dict[str, Any]]:
    return list(reports.round_report(server.federation, number)["took_part"])


def assert_once(server: Server, site: Site, number: int) -> str:
    """One charge, one release, one acknowledgement, one update at the server, all of the same digest."""
    assert [len(of_round(site, number, kind)) for kind in ("reserved", "released", "acknowledged")] == [1, 1, 1]
    digest: str = of_round(site, number, "released")[0]["payload_sha256"]
    at_server = contributions(server, number)
    assert [(update["site"], update["update_sha256"]) for update in at_server] == [("site-a", digest)]
    assert site.round_state(number)[0] == "acknowledged"
    assert site.ok("audit", "verify")["outcome"] == "whole"
    return digest


@pytest.mark.fault(
    part="site",
    what="kill -9 at each boundary of a round",
    where="`fedsite train-round`, once each of the seven states is durable",
    promised="the next run ends the round exactly once; charged before any noise is drawn",
)
@pytest.mark.parametrize("state", STATES)
def test_kill_at_a_state_boundary(server: Server, site: Site, tmp_path: Path, state: str) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.killed(f"after:{state}", "train-round")
    charged = len(of_round(site, number, "reserved"))
    released = [body["payload_sha256"] for body in of_round(site, number, "released")]

    again = site.ok("train-round")

    digest = assert_once(server, site, number)
    if released:
        assert digest == released[0], "a retry must send the bytes that were released"
    if state == "reserved":
        assert charged == 1, "the charge must be durable before the noise is drawn"
    if state == "acknowledged":
        assert again["outcome"] == "nothing-to-do"
    else:
        assert again["outcome"] == "uploaded"
        assert again["data"]["payload_sha256"] == digest
    assert not list((site.state / "checkpoints").iterdir()), "raw weights must not outlive the release"


@pytest.mark.fault(
    part="site",
    what="kill -9 in the middle of the upload",
    where="half of a block is on the line",
    promised="the next run sends the same bytes, once",
)
def test_kill_in_the_middle_of_the_upload(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, shapes=LARGE, **PLAN)

    site.killed("upload", "train-round")
    assert site.round_state(number)[0] == "uploading"
    before = sha256_of(site.state / "outbox" / f"round-{number}.safetensors")
    assert not contributions(server, number)

    assert site.ok("train-round")["data"]["payload_sha256"] == before
    assert assert_once(server, site, number) == before


@pytest.mark.fault(
    part="site",
    what="a model or weights are gone between two runs",
    where="models/, checkpoints/ emptied after a kill",
    promised="made again under the same charge; exactly once",
)
@pytest.mark.parametrize(
    ("state", "lost"),
    [("fetched", "models"), ("trained", "checkpoints"), ("reserved", "models"), ("reserved", "checkpoints")],
)
def test_weights_that_went_missing_are_made_again(
    server: Server, site: Site, tmp_path: Path, state: str, lost: str
) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.killed(f"after:{state}", "train-round")
    for path in (site.state / lost).iterdir():
        path.unlink()
    assert site.ok("train-round")["outcome"] == "uploaded"
    assert_once(server, site, number)


@pytest.mark.fault(
    part="site",
    what="a model or weights are damaged between two runs",
    where="models/, checkpoints/ overwritten after a kill",
    promised="nothing of them leaves (exit 74); the next run makes them again",
)
@pytest.mark.parametrize(("state", "lost"), [("trained", "models"), ("reserved", "checkpoints")])
def test_damaged_weights_are_never_released(server: Server, site: Site, tmp_path: Path, state: str, lost: str) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.killed(f"after:{state}", "train-round")
    (damaged,) = (site.state / lost).iterdir()
    damaged.write_bytes(b"what fsck left")
    answer = site.run("train-round")
    assert (answer.code, answer.json["error"]["code"]) == (74, "records-damaged")
    assert not of_round(site, number, "released")
    assert site.ok("train-round")["outcome"] == "uploaded", "the next run makes them again"
    assert_once(server, site, number)


@pytest.mark.fault(
    part="site",
    what="reboot after reboot",
    where="one round, killed at each boundary in turn",
    promised="it ends exactly once",
)
def test_killed_again_and_again(server: Server, site: Site, tmp_path: Path) -> None:
    """A machine that dies at every boundary in turn still ends with one update and one charge."""
    number = server.open_round(tmp_path, **PLAN)
    for state in STATES[:-1]:
        site.killed(f"after:{state}", "train-round")
    site.ok("train-round")
    assert_once(server, site, number)
