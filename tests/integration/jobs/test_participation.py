"""What a participation does besides the happy path: rounds that end early, restored states, refused updates."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.federation import Server
from support.site import Site

from fedsite.errors import UpdateRefused
from fedsite.files import unfinished
from fedsite.jobs.plan import verification
from fedsite.jobs.progress import Progress
from fedsite.jobs.round import participate
from fedsite.jobs.site import open_site
from fedsite.server.rounds import reports, series
from fedsite.wire import payload
from fedsite.wire.payload import tensors_of

LOCAL = {"steps": 0, "patch_voxels": [16, 16, 16]}
PLAN = {"local": LOCAL, "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600}}


def enough(count: int) -> dict[str, Any]:
    """The plan of rounds that close with so many updates."""
    return {"local": LOCAL, "rounds": {"quorum": count, "enough": count, "deadline_seconds": 600}}


def took_part(server: Server, number: int) -> list[str]:
    return [one["site"] for one in reports.round_report(server.federation, number)["took_part"]]


def test_nothing_due(server: Server, site: Site) -> None:
    server.close_rounds()
    before = site.run("train-round", "--help").process
    mine = unfinished(site.state / "outbox" / "round-7.safetensors")
    theirs = mine.with_name(mine.name.replace(f".{os.getpid()}", f".{before}"))
    for half in (mine, theirs):
        half.touch()
    answer = site.ok("train-round")
    assert answer["outcome"] == "nothing-to-do"
    assert list(mine.parent.iterdir()) == [mine], "what a killed run has left half-written waits for no round"
    mine.unlink()
    assert site.say("train-round").stdout == "Nothing to do: no round is waiting for this site.\n"


def test_round_ends_before_the_release(server: Server, site: Site, tmp_path: Path) -> None:
    first = server.open_round(tmp_path, **PLAN)
    site.killed("after:trained", "train-round")
    assert list((site.state / "checkpoints").iterdir())
    (site.state / "models" / f"{'0' * 64}.part").touch()
    second = server.open_round(tmp_path, **PLAN)

    assert site.ok("train-round")["data"]["round"] == second

    assert site.round_state(first)[0] == "abandoned"
    assert not list((site.state / "checkpoints").iterdir()), "weights of an abandoned round must not lie about"
    assert len(list((site.state / "models").iterdir())) == 1, "nor must half of a model that nobody trains any more"
    assert not [body for body in site.ledger() if body.get("round") == first], "an abandoned round costs nothing"


def test_round_ends_after_the_release(server: Server, site: Site, tmp_path: Path) -> None:
    first = server.open_round(tmp_path, **PLAN)
    site.killed("after:released", "train-round")
    second = server.open_round(tmp_path, **PLAN)

    assert site.ok("train-round")["data"]["round"] == second

    assert site.round_state(first)[0] == "late"
    assert took_part(server, first) == []
    charged = [body["kind"] for body in site.ledger() if body.get("round") == first]
    assert charged == ["reserved", "released"], "what was released stays charged"

    third = server.open_round(tmp_path, **PLAN)
    site.killed("after:released", "train-round")
    server.open_round(tmp_path, **PLAN)
    site.ok("train-round")
    kept = [path.name for path in (site.state / "outbox").iterdir()]
    assert kept == [f"round-{third}.safetensors"], "the newest may be opened again; a year of late ones is not kept"


def test_a_restored_state_folder_stops_the_site(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "restored")
    site.init()
    site.enroll(server.invite("restored"))
    copy = tmp_path / "backup"
    shutil.copytree(site.state, copy)
    number = server.open_round(tmp_path, **PLAN)
    site.ok("train-round")
    shutil.rmtree(site.state)
    shutil.copytree(copy, site.state)
    site.state.chmod(0o700)

    answer = site.run("train-round")

    assert answer.code == 74
    assert "receipts" in answer.json["error"]["message"]
    assert took_part(server, number) == ["restored"]


@pytest.fixture
def careless_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens rounds whose norm bound no honest update can keep."""
    monkeypatch.setattr(series, "largest_honest_norm", lambda asked, values: 0.0)


@pytest.mark.usefixtures("careless_coordinator")
def test_a_norm_bound_below_honest_noise_is_refused_by_the_site(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, max_update_norm=1e-3, **PLAN)
    answer = site.run("train-round")
    assert answer.code == 76
    assert "max_update_norm" in answer.json["error"]["message"]
    assert not [body for body in site.ledger() if body.get("round") == number], "it must not pay for a refusal"


@pytest.mark.usefixtures("careless_coordinator")
def test_a_refused_update_is_not_sent_again_and_again(
    server: Server, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses by its norm bound; the site's own check of that bound is blinded for this test."""
    monkeypatch.setattr(verification, "largest_honest_norm", lambda asked, values: 0.0)
    number = server.open_round(tmp_path, max_update_norm=1e-3, **PLAN)
    with open_site(site.config) as opened, pytest.raises(UpdateRefused):
        participate.take_part(opened, quietly)
    assert site.round_state(number)[0] == "rejected"
    assert [one["site"] for one in reports.round_report(server.federation, number)["rejected"]] == ["site-a"]
    with open_site(site.config) as opened:
        assert participate.take_part(opened, quietly).outcome == "nothing-to-do"


@contextmanager
def quietly(_step: str) -> Iterator[Progress]:
    """A step that nobody watches."""
    yield lambda done, total, note="": None


def test_a_changed_payload_never_leaves(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.killed("after:released", "train-round")
    payload = site.state / "outbox" / f"round-{number}.safetensors"
    good = payload.read_bytes()
    payload.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))

    assert site.run("train-round").code == 74
    assert took_part(server, number) == []

    payload.write_bytes(good)
    assert site.ok("train-round")["outcome"] == "uploaded"


def test_a_file_without_its_ledger_row_never_leaves(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.killed("after:reserved", "train-round")
    stray = site.state / "outbox" / f"round-{number}.safetensors"
    stray.write_bytes(b"not from the gate")
    digest = site.ok("train-round")["data"]["payload_sha256"]
    at_server = reports.round_report(server.federation, number)["took_part"]
    assert [one["update_sha256"] for one in at_server] == [digest]


def test_a_site_that_missed_rounds_follows_the_chain(server: Server, site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "steady")
    other.init()
    other.enroll(server.invite("steady"))
    first = server.open_round(tmp_path, count=4, **enough(1))
    site.ok("train-round")
    for number in (first + 1, first + 2):
        server.wait_for(number)
        assert other.ok("train-round")["data"]["round"] == number
    server.wait_for(first + 3)
    assert site.ok("train-round")["data"]["round"] == first + 3


def test_the_global_model_is_the_mean_of_what_the_sites_sent(server: Server, site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "second")
    other.init(policy={"public_weight": 3.0})
    other.enroll(server.invite("second"))
    site.configure(policy={"public_weight": 1.0})
    weighted = {"weights": "declared", "maximum_weight": 10.0}
    number = server.open_round(tmp_path, **enough(2), **weighted)
    sent = []
    for one in (site, other):
        one.killed("after:released", "train-round")
        sent.append(tensors_of(next((one.state / "outbox").glob(f"round-{number}.*"))))
        sent[-1] = {name: np.array(values, dtype=np.float64) for name, values in sent[-1].items()}
        one.ok("train-round")
    server.wait_for(number, "aggregated")
    exported = tmp_path / "result.safetensors"
    assert server.run("model", "export", "--round", str(number), "-o", str(exported)).returncode == 0
    before = tensors_of(tmp_path / "model.safetensors")
    for name, values in tensors_of(exported).items():
        expected = before[name] + (1 * sent[0][name] + 3 * sent[1][name]) / 4
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7)


def test_an_int8_update_is_rounded_once_and_sent_as_it_was_charged(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, payload="int8", **enough(1))
    site.killed("after:released", "train-round")
    outbox = next((site.state / "outbox").glob(f"round-{number}.*"))
    sent, tensors = outbox.read_bytes(), load_file(outbox)
    site.killed("after:uploading", "train-round")
    assert outbox.read_bytes() == sent, "a second rounding would be a second release"
    site.ok("train-round")

    [released] = [body for body in site.ledger() if body["kind"] == "released" and body["round"] == number]
    assert released["payload_sha256"] == hashlib.sha256(sent).hexdigest()
    server.wait_for(number, "aggregated")
    [received] = reports.round_report(server.federation, number)["took_part"]
    assert (received["update_sha256"], received["bytes"]) == (released["payload_sha256"], len(sent))
    federation = server.federation
    made = tensors_of(federation.models.path(reports.find_model(federation, None, number)))
    scales = tensors.pop(payload.SCALES).astype(np.float64)
    for (name, before), scale in zip(tensors_of(tmp_path / "model.safetensors").items(), scales, strict=True):
        expected = (before + tensors[name].astype(np.float64) * scale).astype(np.float32)
        np.testing.assert_array_equal(made[name], expected)


def test_another_agreement_must_be_accepted(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "careful")
    site.init()
    unsigned = site.ok("enroll", "--invitation", "-", stdin=server.invite("careful"))
    assert unsigned["data"]["agreement_accepted_by"] == ""
    assert site.run("train-round").code == 75
    read = site.say("enroll")
    assert "Be kind." in read.stderr, "it can be read again by whoever comes to accept it"
    assert "not accepted yet" in read.stderr
    assert site.run("enroll", "--accept-agreement", " ").code == 2, "nobody is no person"
    assert site.run("train-round").code == 75
    site.ok("enroll", "--accept-agreement", "Ada Tester")
    assert "Be kind." not in site.say("enroll").stderr
    assert site.run("train-round").code == 0


@pytest.mark.parametrize("state", ["reserved", "released", "uploading"])
def test_a_dry_run_never_goes_beyond_the_charge(server: Server, site: Site, tmp_path: Path, state: str) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.killed(f"after:{state}", "train-round")

    answer = site.run("train-round", "--dry-run")

    assert answer.code == 75
    assert state in answer.json["error"]["message"]
    assert site.round_state(number)[0] == state
    assert took_part(server, number) == []
    assert site.ok("train-round")["outcome"] == "uploaded"


def test_other_terms_than_the_ledgers_are_refused(site: Site) -> None:
    good = site.config.read_text()
    site.configure(privacy={"epsilon": 2e6})
    try:
        answer = site.run("status")
        assert answer.code == 78
        assert "privacy.epsilon" in answer.json["error"]["message"]
    finally:
        site.config.write_text(good)
