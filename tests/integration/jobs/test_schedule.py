"""`fedsite schedule` as an operator types it; and a real cron daemon, which takes part with what it wrote."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.federation import Server
from support.site import Site
from support.tools import require

from fedsite.jobs.schedule import presence
from fedsite.jobs.schedule.record import name_of

PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600},
}
PATIENCE_SECONDS = 400


@pytest.fixture
def lone(tmp_path: Path) -> Site:
    """A site of a user whose units lie in a folder of this test's, and whose systemctl does nothing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "loginctl", "crontab"):
        (programs / name).write_text("#!/bin/sh\necho 'no crontab for you' >&2\ntest $1 != -l\n")
        (programs / name).chmod(0o755)
    site = Site(
        tmp_path,
        {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "CUDA_VISIBLE_DEVICES": "1",
            "FEDSITE_TRAINING__DEVICE": "cpu",
        },
    )
    site.init()
    return site


def install(site: Site, *options: str) -> dict[str, object]:
    answer = site.ok("schedule", "install", "--with", "systemd", "--user", *options)
    return {"outcome": answer["outcome"], **answer["data"]}


def test_installed_replaced_shown_and_removed(lone: Site) -> None:
    units = lone.home / "config" / "systemd" / "user"
    name = name_of(lone.state)
    assert lone.ok("schedule", "show")["data"]["installed"] == []

    first = install(lone, "--window", "20:00-06:00", "--weekends")
    assert (first["outcome"], first["with"], first["scope"]) == ("installed", "systemd", "user")
    assert {path.name for path in units.iterdir()} == {f"{name}.service", f"{name}.timer"}
    service = (units / f"{name}.service").read_text()
    assert f'"--quiet" "train-round" "--config" "{lone.config}"' in service
    assert 'Environment="CUDA_VISIBLE_DEVICES=1"' in service
    assert 'Environment="FEDSITE_TRAINING__DEVICE=cpu"' in service
    before = {path: path.stat().st_mtime_ns for path in units.iterdir()}
    assert install(lone, "--window", "20:00-06:00", "--weekends")["outcome"] == "unchanged"
    assert {path: path.stat().st_mtime_ns for path in units.iterdir()} == before

    lone.configure(policy={"hours": ["19:00-05:00"]})
    assert install(lone, "--every", "90m")["windows"] == ["19:00-05:00"], "the policy's own"
    timer = units / f"{name}.timer"
    timer.write_text(timer.read_text().replace("19", "18"))
    (shown,) = lone.ok("schedule", "show")["data"]["installed"]
    assert shown["changed_by_hand"]
    assert "changed by hand" in lone.say("schedule", "show").stdout
    again = install(lone, "--every", "90m")
    assert (again["outcome"], again["changed_by_hand"]) == ("replaced", False)

    assert lone.ok("schedule", "remove")["outcome"] == "removed"
    assert list(units.iterdir()) == []
    assert lone.ok("schedule", "remove")["outcome"] == "nothing-to-do"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--every", "25h"), 2, "--every 25h"),
        (("--every", "90s"), 2, "--every 90s"),
        (("--window", "8-17"), 2, "--window 8-17"),
        (("--window", "08:00-17:00"), 2, "policy.hours"),
    ],
)
def test_what_cannot_be_scheduled(site: Site, options: tuple[str, ...], code: int, said: str) -> None:
    site.configure(policy={"hours": ["20:00-06:00"]})
    try:
        answer = site.run("schedule", "install", "--with", "systemd", *options)
    finally:
        site.configure(policy={"hours": []})
    assert answer.code == code
    assert said in answer.json["error"]["message"]


@contextmanager
def cron(log: Path) -> Iterator[None]:
    """The machine's own daemon, or one of this test's; and this user's crontab as it was before."""
    program, table = require("cron", "cron"), require("crontab", "cron")
    before = subprocess.run([table, "-l"], capture_output=True)
    daemon = None
    if not presence.cron_runs():
        if os.geteuid() != 0:
            pytest.skip("no cron runs here, and only root can start one")
        with log.open("w") as output:
            daemon = subprocess.Popen([program, "-f", "-L", "15"], stdout=output, stderr=output)
    try:
        yield
        after = subprocess.run([table, "-l"], capture_output=True)
        assert (after.returncode, after.stdout) == (before.returncode, before.stdout)
    finally:
        if before.returncode == 0:
            subprocess.run([table, "-"], input=before.stdout, check=True)
        else:
            subprocess.run([table, "-r"], capture_output=True)
        if daemon:
            daemon.terminate()
            daemon.wait()


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="site",
    what="nobody is there: no login, no environment, no terminal",
    where="a real cron daemon starts the line that `fedsite schedule install` wrote",
    promised="the site takes part in the round that is due; every other line of the crontab stays as it is",
)
def test_cron_takes_part_by_itself(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **PLAN)
    with cron(tmp_path / "log"):
        installed = site.ok("schedule", "install", "--every", "1m", "--with", "cron", "--user")["data"]
        assert installed["runs"]
        away = datetime.fromisoformat(installed["next_run"]) - datetime.now(UTC)
        assert timedelta(0) - timedelta(seconds=30) < away <= timedelta(minutes=1)
        end = time.monotonic() + PATIENCE_SECONDS
        while _state_of(site, number) != "acknowledged":
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(1)
        assert site.ok("schedule", "remove")["outcome"] == "removed"


def _state_of(site: Site, number: int) -> str:
    with site.open_state() as state:
        return next((one.state for one in state.rounds("test-federation") if one.round == number), "")
