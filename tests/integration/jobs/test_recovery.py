"""Ledgers that know too little, are damaged or lost: exit 74 until what left is charged again, and not a round more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.federation import Server
from support.records import alter
from support.site import Site

LOCAL = {"steps": 0, "patch_voxels": [16, 16, 16]}
PRIVACY = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 40.0}
LARGE = {"first.weight": (300, 300), "last.weight": (100, 100)}
PLAN = {"local": LOCAL, "privacy": PRIVACY, "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600}}


@pytest.fixture
def site(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """A site of its own for each test, enrolled, with a budget for about ten rounds of `PLAN`."""
    site = Site(tmp_path / "site")
    site.init(epsilon=2.0)
    site.enroll(server.invite(name_of(request)))
    return site


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return name_of(request)


def name_of(request: pytest.FixtureRequest) -> str:
    return "".join(sign for sign in request.node.name.lower() if sign.isalnum())[-60:]


@pytest.fixture
def play(server: Server, site: Site, tmp_path: Path) -> Callable[..., int]:
    """Opens a round and takes part in it; gives its number."""

    def play(**changes: Any) -> int:
        number = server.open_round(tmp_path, **PLAN | changes)
        site.ok("train-round")
        return number

    return play


def set_aside(site: Site, copy: Path) -> Path:
    shutil.copytree(site.state, copy)
    return copy


def bring_back(site: Site, copy: Path) -> None:
    shutil.rmtree(site.state)
    shutil.copytree(copy, site.state)
    site.state.chmod(0o700)


def spent(site: Site) -> dict[str, Any]:
    shown = site.ok("privacy", "show")["data"]
    return {name: shown[name] for name in ("epsilon", "releases", "guarantee")}


def assert_costs(site: Site, before: dict[str, Any]) -> None:
    """Neither more nor less than the lost ledger had charged; the values that left are bounded by the model's bytes."""
    found = spent(site)
    assert (found["releases"], found["guarantee"]) == (before["releases"], before["guarantee"])
    assert before["epsilon"] <= found["epsilon"] <= before["epsilon"] * (1 + 1e-6)


# --- an older copy --------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="records",
    what="a site's state folder is restored from an older copy",
    where="two rounds are forgotten",
    promised="noticed (exit 74); `fedsite privacy recover` charges them again",
)
def test_a_restored_snapshot_is_charged_what_it_has_forgotten(
    server: Server, site: Site, play: Callable[..., int], tmp_path: Path
) -> None:
    play()
    copy = set_aside(site, tmp_path / "copy")
    lost = [play(), play()]
    before = spent(site)
    sequences = [body["kind"] for body in site.ledger()]
    bring_back(site, copy)
    server.open_round(tmp_path, **PLAN)

    stopped = site.run("train-round")
    assert stopped.code == 74
    assert "fedsite privacy recover" in stopped.json["error"]["mend"]
    assert site.run("train-round", "--dry-run").code == 74

    found = site.ok("privacy", "recover")
    assert found["outcome"] == "recovered"
    assert [one["round"] for one in found["data"]["charged"]] == lost
    assert all(one["receipt"] and one["priced"] for one in found["data"]["charged"])
    assert_costs(site, before)
    kinds = [body["kind"] for body in site.ledger()]
    assert len(kinds) == len(sequences) - 1, "numbered as before; the last receipt's own record is not made up"
    assert [kinds.index("recovered") + 1, len(kinds)] == [6, 9], "each charge is the record that its receipt names"
    assert site.round_state(lost[0])[0] == "recovered"

    assert site.ok("privacy", "recover")["outcome"] == "nothing-to-do"
    copy = set_aside(site, tmp_path / "second")
    assert site.ok("train-round")["outcome"] == "uploaded"
    assert site.ok("audit", "verify")["outcome"] == "whole"
    bring_back(site, copy)
    assert site.run("train-round").code == 74, "a second copy is noticed as the first was"


def test_what_left_without_a_receipt_is_noticed_and_charged(server: Server, site: Site, tmp_path: Path) -> None:
    """The upload was announced, and the line went dead: noise of that draw may be out there."""
    copy = set_aside(site, tmp_path / "copy")
    number = server.open_round(tmp_path, shapes=LARGE, **PLAN)
    site.killed("upload:1", "train-round")
    bring_back(site, copy)

    stopped = site.run("train-round")
    assert stopped.code == 74
    assert "0 receipts" in stopped.json["error"]["message"]

    (found,) = site.ok("privacy", "recover")["data"]["charged"]
    assert (found["round"], found["receipt"], found["priced"]) == (number, False, True)
    assert spent(site)["releases"] == 1
    again = site.ok("train-round")
    assert again["outcome"] == "nothing-to-do", "a round that a lost copy has released is not released again"
    assert spent(site)["releases"] == 1


def test_what_nobody_can_price_takes_all_that_is_left(
    server: Server, site: Site, play: Callable[..., int], tmp_path: Path
) -> None:
    """The plan is signed by none of the keys that this site has pinned: its word on the price is worth nothing."""
    copy = set_aside(site, tmp_path / "copy")
    number = play()
    bring_back(site, copy)
    pinned = site.state / "identity" / "federation.json"
    good = pinned.read_text()
    pinned.write_text(json.dumps(json.loads(good) | {"plan_keys": ["0" * 64]}))

    (found,) = site.ok("privacy", "recover")["data"]["charged"]

    assert (found["round"], found["priced"]) == (number, False)
    assert "no provable price" in " ".join(site.say("privacy", "history").stdout.split())
    assert spent(site)["epsilon"] == pytest.approx(2.0)
    pinned.write_text(good)
    server.open_round(tmp_path, **PLAN)
    assert site.run("train-round").code == 81, "nothing is left to spend"


# --- a new disk -----------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="records",
    what="a site's disk is lost",
    where="the whole state folder",
    promised="what left is charged again from what the server knows",
)
def test_a_state_folder_that_is_gone_begins_anew_under_the_terms_of_the_configuration(
    server: Server, site: Site, play: Callable[..., int], name: str
) -> None:
    play()
    before = spent(site)
    shutil.rmtree(site.state)
    assert site.run("train-round").code == 77
    found = site.run("privacy", "recover")
    assert found.code == 0
    assert found.json["data"]["enrolled"] is False
    assert "enrol with a new invitation" in found.stderr
    site.enroll(server.invite(name))
    assert_costs(site, before)


# --- damaged records ------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="records",
    what="a ledger's record is altered",
    where="SQL, past the triggers",
    promised="the site stops (exit 74); records are made anew and charged",
)
def test_damaged_records_are_made_anew(server: Server, site: Site, play: Callable[..., int], tmp_path: Path) -> None:
    play(), play()
    before = spent(site)
    alter(site.state / "state.db", "update ledger set time = 'x' where sequence = 2")
    server.open_round(tmp_path, **PLAN)
    stopped = site.run("train-round")
    assert stopped.code == 74
    assert "fedsite privacy recover" in stopped.json["error"]["mend"]
    site.configure(network={"proxy": "http://127.0.0.1:1", "patience_seconds": 0.2})
    assert site.run("privacy", "recover").code == 69
    assert not (site.state / "damaged").exists(), "nothing is changed while the server cannot be asked"
    site.configure(network={"proxy": None, "patience_seconds": 20})

    found = site.ok("privacy", "recover")

    assert found["outcome"] == "recovered"
    assert "Record 2 of the ledger was altered" in found["data"]["damage"]
    assert Path(found["data"]["kept"]).parent == site.state / "damaged"
    assert site.ok("audit", "verify")["outcome"] == "whole"
    assert_costs(site, before)
    assert site.ok("train-round")["outcome"] == "uploaded"
