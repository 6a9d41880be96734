"""The audit of real participations: what it holds, what it holds it against, and the page made of it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.federation import NAME, Server, running
from support.site import Site

from fedsite.server.keeping import backups

LOCAL = {"steps": 0, "patch_voxels": [16, 16, 16]}
PRIVACY = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 40.0}
PLAN = {"local": LOCAL, "privacy": PRIVACY, "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600}}


def events(site: Site, event: str) -> list[dict[str, Any]]:
    with site.open_state() as state:
        return [record.body for record in state.records("audit") if record.body["event"] == event]


@pytest.fixture(scope="module")
def number(server: Server, site: Site, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The one round that the site has taken part in."""
    number = server.open_round(tmp_path_factory.mktemp("plan"), **PLAN)
    site.ok("train-round")
    return number


def test_every_request_is_recorded(site: Site, number: int) -> None:
    requests = events(site, "request")
    paths = [(one["method"], one["path"].partition("?")[0]) for one in requests]
    for asked in (
        ("GET", "/.well-known/est/cacerts"),
        ("POST", "/.well-known/est/simpleenroll"),
        ("GET", "/v1/trust"),
        ("GET", "/v1/updates"),
        ("POST", "/v1/participation"),
        ("POST", f"/v1/rounds/{number}/updates"),
    ):
        assert asked in paths
    sent = [one for one in requests if one["method"] == "PATCH"]
    model = [one for one in requests if one["path"].startswith("/v1/models/")]
    released = next(body for body in site.ledger() if body["kind"] == "released")
    assert sum(one["sent"] for one in sent) == released["payload_bytes"]
    assert [(one["status"], one["sent"]) for one in model] == [(200, 0)]
    assert all(abs(one["ahead"]) < 60 for one in requests if one["ahead"] is not None)
    assert any(one["ahead"] is not None for one in requests)
    assert all(one["operator"] for one in requests)


def test_what_is_secret_is_not_recorded(site: Site, number: int) -> None:
    with site.open_state() as state:
        content = "".join(record.text for record in state.records("audit"))
    for secret in ("Authorization", "Basic ", "fedsite-invitation", str(site.home)):
        assert secret not in content


def test_what_was_decided_is_recorded(site: Site, number: int) -> None:
    (accepted,) = events(site, "accepted")
    body = site.round_state(number)[1]
    assert (accepted["round"], accepted["ticket_sha256"]) == (number, body["ticket_sha256"])
    (agreement,) = events(site, "agreement accepted")
    assert agreement["by"] == "Ada Tester"
    policies = events(site, "policy")
    site.configure(policy={"maximum_steps": 77, "tasks": ["stroke-dwi", "stroke-t1"]})
    site.ok("status")
    site.ok("status")
    new = events(site, "policy")[len(policies) :]
    assert [(one["changed"], one["policy"]["maximum_steps"]) for one in new] == [(["maximum_steps", "tasks"], 77)]
    text = json.dumps(new[0]["policy"], sort_keys=True, separators=(",", ":"))
    assert new[0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_refused_enrolment_is_recorded(server: Server, tmp_path: Path) -> None:
    """Another key has spent the invitation: the server says no, and the records of a site that never got in say it."""
    invitation = server.invite("site-e")
    sites = [Site(tmp_path / name) for name in ("first", "second")]
    for site in sites:
        site.init()
    sites[0].enroll(invitation)
    assert sites[1].run("enroll", "--invitation", "-", stdin=invitation).code == 77
    assert [one["code"] for one in events(sites[1], "refused")] == ["not-authorised"]
    assert [one["status"] for one in events(sites[1], "request")] == [200, 403]
    assert events(sites[0], "refused") == []


def test_it_is_verified_on_another_machine(site: Site, number: int, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    data = site.ok("audit", "export", str(file))["data"]
    key = site.ok("identity", "show")["data"]["audit_key"]
    assert data["key"] == key
    auditor = Site(tmp_path / "auditor")
    found = auditor.ok("audit", "verify", str(file), "--key", key)["data"]
    assert "--key KEY" in auditor.run("audit", "verify", str(file)).stderr, "whose key it is, the file cannot say"
    assert (found["site"], found["federation"]) == ("site-a", NAME)
    assert found["records"]["ledger"] == 4
    assert auditor.run("audit", "verify", str(file), "--key", "0" * 64).code == 74
    assert site.ok("audit", "verify", "--since", str(file))["outcome"] == "whole"
    assert "are whole" in auditor.say("audit", "verify", str(file)).stdout
    assert site.run("audit", "export").code == 2
    assert auditor.run("audit", "verify", str(file), "--server").code == 2
    assert site.run("audit", "verify", "--key", key).code == 2


def test_the_receipts_agree(site: Site, number: int) -> None:
    assert site.ok("audit", "verify", "--server")["data"]["receipts"] == 1


@pytest.mark.fault(
    part="records",
    what="the server is restored from an older copy",
    where="it has forgotten a receipt",
    promised="the site notices (exit 76) and sends nothing until the newest copy is back",
)
def test_a_server_that_was_set_back_is_noticed(tmp_path: Path) -> None:
    """It was restored from a backup that is one round old; nothing is due, and still the site can tell."""
    folder, copy = tmp_path / "federation" / "server", tmp_path / "copy"
    with running(folder) as server:
        site = Site(tmp_path / "site")
        site.init()
        site.enroll(server.invite("site-a"))
        server.open_round(tmp_path, **PLAN)
        assert server.run("server", "backup", str(copy)).returncode == 0
        site.ok("train-round")
        assert site.ok("train-round")["outcome"] == "nothing-to-do"
        server.stop()
        shutil.rmtree(folder)
        backups.restore(copy, folder)
        server.start()
        server.close_rounds()

        told = site.run("train-round")
        assert told.code == 76
        assert "does not know the receipt that it signed" in told.json["error"]["message"]
        assert site.run("audit", "verify", "--server").code == 76
        (receipt,) = [body["receipt_sha256"] for body in site.ledger() if body["kind"] == "acknowledged"]
        assert {one["receipt_sha256"] for one in events(site, "receipt forgotten")} == {receipt}
        assert [one["code"] for one in events(site, "refused")] == ["protocol-broken"]
        assert site.ok("audit", "verify")["outcome"] == "whole"


def test_a_restored_state_folder_is_told_by_the_receipts(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.init()
    site.enroll(server.invite("site-c"))
    shutil.copytree(site.state, tmp_path / "copy")
    server.open_round(tmp_path, **PLAN)
    site.ok("train-round")
    shutil.rmtree(site.state)
    shutil.copytree(tmp_path / "copy", site.state)
    site.state.chmod(0o700)
    told = site.run("audit", "verify", "--server")
    assert told.code == 74
    assert "which this site's ledger does not hold" in told.json["error"]["message"]


def test_what_was_asked_while_the_records_were_made_anew_is_recorded(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.init()
    site.enroll(server.invite("site-d"))
    (site.state / "records.head").unlink()
    assert site.run("train-round").code == 74
    assert "records.head is gone" in site.ok("privacy", "recover")["data"]["damage"]
    assert [one["path"] for one in events(site, "request")] == ["/v1/updates?after=0"]
    assert site.ok("audit", "verify")["outcome"] == "whole"
