"""Runs that nobody watches: silent when all is well, clear when it is not; told, counted, written down; hooks."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from support.federation import Server, plan_file
from support.inbox import Inbox, inbox, sendmail
from support.site import Site, prepare_blobs

from fedsite.jobs.lock import only_run
from fedsite.jobs.unattended import run_log, streaks

SHORT = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600},
}
LEARNING = {"steps": 1, "patch_voxels": [16, 16, 16]}
EVERYTHING = {"start", "success", "pending", "failure"}
NO_HOOKS = {"before_round": None, "after_round": None, "seconds": 300}


@pytest.fixture(scope="module")
def took() -> Iterator[Inbox]:
    with inbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def mailed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sendmail(tmp_path_factory.mktemp("mail") / "bin")


@pytest.fixture(scope="module")
def site(server: Server, took: Inbox, mailed: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("site"), {"PATH": f"{mailed}:{os.environ['PATH']}"})
    site.init()
    site.enroll(server.invite("site-a"))
    return site


@pytest.fixture(autouse=True)
def fresh(site: Site, took: Inbox, mailed: Path, server: Server) -> Iterator[None]:
    """Everybody is told of everything, nothing has happened yet."""
    told = {"ping": f"{took.address}/alive", "webhook": f"{took.address}/hook?key=s3cret", "events": sorted(EVERYTHING)}
    site.configure(notifications=told | {"mail_to": ["it@hospital.example"]}, hooks=NO_HOOKS, policy={"hours": []})
    for name in (streaks.NAME, run_log.NAME):
        (site.state / "logs" / name).unlink(missing_ok=True)
    (mailed / "messages").write_bytes(b"")
    took.came.clear()
    took.status = 200
    yield
    server.close_rounds()


def program(folder: Path, script: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def runs(site: Site) -> list[dict[str, Any]]:
    """The lines of the log."""
    return [json.loads(line) for line in (site.state / "logs" / run_log.NAME).read_text().splitlines()]


def hooked(took: Inbox) -> list[dict[str, Any]]:
    """What the webhook was told."""
    return [json.loads(body) for path, body in took.came if path.startswith("/hook")]


def test_a_night_that_goes_well_is_silent(server: Server, site: Site, took: Inbox, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **SHORT)
    for _ in range(2):
        answer = site.say("--quiet", "train-round")
        assert (answer.code, answer.stdout, answer.stderr) == (0, "", "")
    assert took.paths == ["/alive/start", "/hook?key=s3cret", "/alive", "/hook?key=s3cret", "/alive"]
    assert [(one["event"], one["outcome"], one["round"]) for one in hooked(took)] == [
        ("start", "", number),
        ("success", "uploaded", number),
    ]
    assert [(one["outcome"], one["round"], one["exit_code"]) for one in runs(site)] == [
        ("uploaded", number, 0),
        ("nothing-to-do", None, 0),
    ]
    assert runs(site)[0]["told"] == {"ping": "delivered", "webhook": "delivered", "mail": "delivered"}
    assert (site.state / "logs" / run_log.NAME).stat().st_mode & 0o777 == 0o600
    with site.open_state() as state:
        told = [record.body for record in state.records("audit") if record.body["event"] == "notified"]
    assert [(one["way"], one["about"]) for one in told[-1:]] == [("ping", "success")]


def test_what_an_ordinary_night_brings_is_silent_too(site: Site, took: Inbox) -> None:
    with only_run(site.state):
        answer = site.say("--quiet", "train-round")
    assert (answer.code, answer.stdout, answer.stderr) == (75, "", "")
    other = f"{datetime.now(UTC) + timedelta(hours=12):%H}"
    site.configure(policy={"hours": [f"{other}:00-{other}:01"], "time_zone": "UTC"})
    answer = site.say("--quiet", "train-round")
    assert (answer.code, answer.stdout, answer.stderr) == (75, "", "")
    assert took.came == []
    assert [one["code"] for one in runs(site)] == ["another-run", "outside-hours"]
    assert site.say("train-round").stderr.startswith("Error: It is")


def test_a_hook_that_fails_before_a_round(
    server: Server, site: Site, took: Inbox, mailed: Path, tmp_path: Path
) -> None:
    number = server.open_round(tmp_path, **SHORT)
    hook = program(tmp_path, "echo Jane Doe 1970-01-01; echo Jane Doe >&2; exit 3")
    site.configure(hooks={"before_round": hook})
    first, second = (site.say("--quiet", "train-round") for _ in range(2))
    assert (first.code, first.stdout) == (78, "")
    assert f"Error: The hook before_round ({hook}) ended with code 3. The round was not begun" in first.stderr
    assert "in a row" not in first.stderr
    assert "This was the 2nd time in a row, since 20" in second.stderr
    assert site.round_state(number)[0] == "offered"
    assert took.paths == ["/alive/fail", "/hook?key=s3cret", "/alive/fail"], "the webhook hears of it once a day"
    (told,) = hooked(took)
    assert (told["event"], told["code"], told["exit_code"], told["times"]) == ("failure", "hook-failed", 78, 1)
    assert b"hook-failed" in (mailed / "messages").read_bytes()

    site.configure(hooks=NO_HOOKS)
    assert site.say("--quiet", "train-round").code == 0
    last = hooked(took)[-1]
    assert (last["event"], last["code"], last["times"]) == ("mended", "hook-failed", 2)
    assert [(one["code"], one["times"]) for one in runs(site)] == [("hook-failed", 1), ("hook-failed", 2), ("", 0)]
    assert not (site.state / "logs" / streaks.NAME).exists()
    for path in (site.home / "state").rglob("*"):
        assert not (path.is_file() and b"Jane" in path.read_bytes()), path


def test_a_hook_knows_little_and_hears_of_the_end(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **SHORT)
    hook = program(tmp_path, f"env | sort > {tmp_path}/env-$FEDSITE_HOOK; pwd >> {tmp_path}/env-$FEDSITE_HOOK")
    site.configure(hooks={"before_round": hook, "after_round": hook})
    assert site.ok("train-round")["outcome"] == "uploaded"
    names = {line.partition("=")[0] for line in (tmp_path / "env-after_round").read_text().splitlines()}
    ours = {"HOOK", "SITE", "FEDERATION", "ROUND", "OUTCOME", "EXIT_CODE"}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "HOME", "LANG", "/", *(f"FEDSITE_{one}" for one in ours)}
    assert f"FEDSITE_ROUND={number}\n" in (tmp_path / "env-after_round").read_text()
    assert "FEDSITE_OUTCOME=done\n" in (tmp_path / "env-after_round").read_text()
    assert "FEDSITE_OUTCOME" not in (tmp_path / "env-before_round").read_text()


def test_a_hook_that_fails_after_a_round(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **SHORT)
    site.configure(hooks={"after_round": program(tmp_path, "sleep 60 & sleep 60"), "seconds": 0.3})
    answer = site.run("train-round")
    assert (answer.code, answer.json["error"]["code"]) == (78, "hook-failed")
    assert "took more than 0.3 seconds, and was killed" in answer.json["error"]["message"]
    assert site.round_state(number)[0] == "acknowledged", "the round itself went well"
    assert answer.json["data"]["times"] == 1
    assert (runs(site)[-1]["round"], runs(site)[-1]["outcome"]) == (number, "failed")


def test_a_notice_that_fails_only_warns(site: Site, took: Inbox, mailed: Path) -> None:
    took.status = 500
    site.configure(notifications={"webhook": "https://127.0.0.1:1/s3cret"})
    answer = site.say("--quiet", "train-round")
    assert (answer.code, answer.stdout) == (0, "")
    assert answer.stderr == "Warning: The ping about this run was not delivered: 127.0.0.1 answered 500.\n"
    site.configure(policy={"agreement_until": "2020-01-01"})
    answer = site.say("--quiet", "train-round")
    site.configure(policy={"agreement_until": None})
    assert answer.code == 80
    assert "Warning: The webhook about this run was not delivered: 127.0.0.1: Connection refused." in answer.stderr
    assert "s3cret" not in answer.stderr + (site.state / "logs" / run_log.NAME).read_text()
    message = message_from_bytes((mailed / "messages").read_bytes(), policy=default)
    assert (message["Subject"], message["To"]) == ("fedsite site-a: refused (policy-refused)", "it@hospital.example")
    assert (mailed / "arguments").read_text() == "-i it@hospital.example\n"


def test_nothing_measured_is_ever_told(server: Server, site: Site, took: Inbox, mailed: Path, tmp_path: Path) -> None:
    """Of whole rounds that go well and badly, every body that leaves: closed fields, of a closed vocabulary."""
    plan, model = plan_file(tmp_path, **SHORT | {"local": LEARNING}), tmp_path / "model.safetensors"
    prepare_blobs(site)
    site.ok("model", "init", str(plan), "-o", str(model))
    number = server.open_series(plan, model)
    answer = site.say("--quiet", "train-round")
    assert (answer.code, answer.stdout, answer.stderr) == (0, "", ""), "also where it has trained and measured"
    measured = [record["mean_dice"] for record in _evaluations(site)] + site.round_state(number)[1]["training"]["loss"]
    assert len(measured) == 3
    shutil.rmtree(site.data)
    server.open_series(plan, model)
    assert site.run("train-round").code in (65, 66), "no data are prepared"
    site.configure(hooks={"before_round": "/nowhere"})
    server.open_round(tmp_path, **SHORT)
    assert site.run("train-round").json["error"]["code"] == "hook-failed"

    bodies = [body.decode() for _, body in took.came] + [(mailed / "messages").read_text()]
    assert len(bodies) > 6
    assert {key for told in hooked(took) for key in told} == {
        *("schema", "fedsite", "text", "event", "site", "federation", "round", "outcome", "code", "exit_code"),
        *("since", "times"),
    }
    for body in bodies:
        assert not re.search(r"dice|norm|epsilon|loss|case|patient|/nowhere", body, re.IGNORECASE), body
        assert not any(f"{value:.3f}"[1:] in body for value in measured), body


def _evaluations(site: Site) -> list[dict[str, Any]]:
    with site.open_state() as state:
        return list(state.evaluations().values())
