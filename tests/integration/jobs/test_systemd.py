"""`fedsite schedule` where systemd runs: the units that it installs, started by the real one, as README tells it."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import processes
from support.federation import Server, environment, plan_file
from support.processes import FEDSITE
from support.site import Site, prepare_blobs
from support.systemd import SHARED, USER, Machine, booted

from fedsite.jobs.schedule.record import name_of
from fedsite.server.rounds import reports
from fedsite.site.policy import WEAK_PRIVACY_SENTENCE

CONFIG = str(SHARED / "site.yaml")
NAME = name_of(SHARED / "state")
SERVICE, TIMER = f"{NAME}.service", f"{NAME}.timer"
STAMP = Path(f"/var/lib/systemd/timers/stamp-{TIMER}")
CREDENTIAL = Path("/etc/credstore.encrypted/fedsite-passphrase")
ROUNDS = {"quorum": 1, "enough": 9, "deadline_seconds": 600}
ERRORS = "--priority=err"
PATIENCE_SECONDS = 200
PROBE = """#!/bin/sh
# What the service may do, as one of its own programs finds it.
tell() { echo "$1=$2" >> /srv/hospital/state/probe; }
may() { if (echo x > "$2/tried") 2> /dev/null; then tell "$1" yes; else tell "$1" no; fi; }
rm -f /srv/hospital/state/probe
tell user "$(id -un)"
tell privileges "$(sed -n 's/NoNewPrivs:\\t//p' /proc/self/status)"
tell capabilities "$(sed -n 's/CapBnd:\\t//p' /proc/self/status)"
may state /srv/hospital/state
may data /srv/hospital/data
may beside /srv/hospital
may home /home/hospital
may temporary /tmp
may temporary_of_all /var/tmp
"""


@dataclass(frozen=True)
class Hospital:
    """A site of the user `hospital` on a machine that systemd runs, and the federation that it takes part in."""

    machine: Machine
    server: Server

    def configure(self, **settings: dict[str, Any]) -> None:
        Site(self.machine.shared).configure(**settings)

    def open_round(self, scratch: Path, steps: int = 1) -> int:
        """A round on a network of the plan's, begun anew."""
        plan = plan_file(scratch, local={"steps": steps, "patch_voxels": [16, 16, 16]}, rounds=ROUNDS)
        model = scratch / "model.safetensors"
        made = processes.run([FEDSITE, "model", "init", str(plan), "-o", str(model)], environment())
        assert made.code == 0, made
        return self.server.open_series(plan, model)

    def received(self, number: int) -> int:
        """How many updates the server has of a round."""
        return next(int(one["updates"]) for one in reports.rounds(self.server.federation) if one["round"] == number)

    def with_credential(self, *args: str) -> None:
        """`fedsite ARGS` as README tells it to whom systemd gives the passphrase."""
        unit = ("systemd-run", "--pipe", "--wait", "--quiet", f"--uid={USER}")
        given = ("-p", f"LoadCredentialEncrypted=fedsite-passphrase:{CREDENTIAL}")
        self.machine.ok(*unit, *given, FEDSITE, *args, "--config", CONFIG)

    def start(self) -> dict[str, str]:
        """Has systemd run the service once, as the timer does; how that ended."""
        self.machine.run("systemctl", "start", SERVICE)
        return self.machine.properties(SERVICE, "Result", "ExecMainStatus", "ActiveState")


@pytest.fixture(scope="module")
def hospital(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """As README tells it: a passphrase bound to this machine, and the enrolment of a service's user with it."""
    with booted(tmp_path_factory.mktemp("systemd")) as machine:
        machine.ok(
            "sh", "-ec",
            f"install -d -m 700 {CREDENTIAL.parent}; "
            f"openssl rand -hex 32 | systemd-creds encrypt --name=fedsite-passphrase - {CREDENTIAL}",
        )  # fmt: skip
        places = ("--state", str(SHARED / "state"), "--data", str(SHARED / "data"), "--config", CONFIG)
        machine.fedsite(
            *("init", *places, "--epsilon", "1e6", "--delta", "1e-6", "--nominal-patients", "100"), user=USER
        )
        machine.ok("chown", f"root:{USER}", CONFIG)
        machine.ok("chmod", "640", CONFIG)
        prepare_blobs(Site(machine.shared))
        machine.ok("chown", "-R", USER, str(SHARED / "data"))
        found = Hospital(machine, server)
        found.configure(
            policy={"weak_privacy": WEAK_PRIVACY_SENTENCE, "maximum_steps": 10_000},
            network={"patience_seconds": 2},
            training={"device": "cpu", "evaluate": False, "checkpoint_minutes": 0.001},
        )
        (machine.shared / "invitation").write_text(server.invite("site-a"))
        invitation = str(SHARED / "invitation")
        found.with_credential("enroll", "--invitation", invitation, "--accept-agreement", "Ada Tester")
        yield found


def until(what: Callable[[], bool], otherwise: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.2)


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="site",
    what="nobody is there, and nothing but systemd",
    where="a real systemd starts the timer that root's `fedsite schedule install` wrote, for another user",
    promised="the site takes part in the round that is due, its key opened by a credential; the journal stays empty",
)
def test_the_timer_takes_part_by_itself(hospital: Hospital, tmp_path: Path) -> None:
    machine, number = hospital.machine, hospital.open_round(tmp_path)
    hospital.configure(hooks={})
    installed = machine.fedsite("schedule", "install", "--every", "1m", "--config", CONFIG)["data"]
    assert (installed["with"], installed["scope"], installed["runs"]) == ("systemd", "system", True)
    until(lambda: hospital.received(number) == 1, lambda: machine.ok("journalctl", "--no-pager", "-n", "50"))
    machine.ok("systemctl", "stop", TIMER)
    until(lambda: machine.properties(SERVICE, "ActiveState")["ActiveState"] == "inactive", lambda: "still at work")
    assert machine.properties(SERVICE, "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert machine.journal(SERVICE) == [], "all went well: not a word"
    assert machine.run("test", "-e", str(STAMP)).returncode == 0
    assert machine.fedsite("schedule", "remove", "--config", CONFIG)["outcome"] == "removed"
    assert machine.run("test", "-e", str(STAMP)).returncode == 1, "else the next schedule would make up for it at once"
    assert machine.run("systemctl", "cat", SERVICE).returncode
    assert machine.properties(TIMER, "ActiveState", "LoadState") == {
        "ActiveState": "inactive",
        "LoadState": "not-found",
    }


def test_root_and_the_user_do_not_take_from_each_other(hospital: Hospital) -> None:
    machine = hospital.machine
    machine.fedsite("schedule", "install", "--every", "24h", "--config", CONFIG)
    try:
        machine.ok("systemctl", "disable", TIMER)
        (shown,) = machine.fedsite("schedule", "show", "--config", CONFIG)["data"]["installed"]
        assert not shown["runs"], "after a boot nothing would start it"
        again = machine.fedsite("schedule", "install", "--every", "24h", "--config", CONFIG)
        assert (again["outcome"], again["data"]["runs"]) == ("replaced", True)
        as_user = ("runuser", "-u", USER, "--", FEDSITE, "schedule")
        refused = machine.run(*as_user, "remove", "--config", CONFIG)
        assert refused.returncode == 78
        assert "Root has scheduled this site" in refused.stderr
        refused = machine.run(*as_user, "install", "--user", "--with", "systemd", "--config", CONFIG)
        assert refused.returncode == 78
    finally:
        machine.fedsite("schedule", "remove", "--config", CONFIG)

    machine.ok("chmod", "600", CONFIG)
    try:
        refused = machine.run(FEDSITE, "schedule", "install", "--config", CONFIG)
        assert refused.returncode == 78
        assert f"{USER}, to whom the state folder belongs, cannot read {CONFIG}" in refused.stderr.replace("\n", " ")
    finally:
        machine.ok("chmod", "640", CONFIG)


@pytest.fixture
def scheduled(hospital: Hospital) -> Iterator[Hospital]:
    """With a schedule whose time is far away: only the test starts it."""
    hospital.configure(hooks={})
    hospital.machine.fedsite("schedule", "install", "--every", "24h", "--config", CONFIG)
    yield hospital
    hospital.machine.fedsite("schedule", "remove", "--config", CONFIG)
    hospital.machine.run("systemctl", "reset-failed", SERVICE)


def test_it_may_do_what_a_round_needs_and_no_more(scheduled: Hospital, tmp_path: Path) -> None:
    machine = scheduled.machine
    probe = machine.shared / "probe.sh"
    probe.write_text(PROBE)
    probe.chmod(0o755)
    scheduled.configure(hooks={"before_round": str(SHARED / probe.name)})
    number = scheduled.open_round(tmp_path)
    assert scheduled.start() == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
    assert scheduled.received(number) == 1
    found = dict(line.split("=") for line in (machine.shared / "state" / "probe").read_text().splitlines())
    assert found == {
        "user": USER,
        "privileges": "1",
        "capabilities": "0" * 16,
        "state": "yes",
        "data": "no",
        "beside": "no",
        "home": "no",
        "temporary": "yes",
        "temporary_of_all": "yes",
    }
    assert machine.run("ls", "/tmp/tried", "/var/tmp/tried").returncode == 2, "it had folders of its own"
    (shown,) = machine.fedsite("schedule", "show", "--config", CONFIG)["data"]["installed"]
    assert (shown["runs"], shown["changed_by_hand"]) == (True, False)


def test_what_is_for_a_person_is_an_error_in_the_journal(scheduled: Hospital, tmp_path: Path) -> None:
    machine = scheduled.machine
    since = f"--since=@{time.time():.0f}"
    scheduled.server.close_rounds()
    assert scheduled.start() == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}

    closed = (time.localtime().tm_hour + 6) % 24
    scheduled.configure(policy={"hours": [f"{closed:02}:00-{(closed + 1) % 24:02}:00"]})
    try:
        assert scheduled.start() == {"Result": "success", "ExecMainStatus": "75", "ActiveState": "inactive"}
    finally:
        scheduled.configure(policy={"hours": []})
    assert machine.journal(SERVICE, since) == []

    scheduled.server.stop(signal.SIGTERM)
    try:
        assert scheduled.start() == {"Result": "exit-code", "ExecMainStatus": "69", "ActiveState": "failed"}
    finally:
        scheduled.server.start()
    said = machine.journal(SERVICE, since, ERRORS)
    assert said == machine.journal(SERVICE, since)
    assert {one["PRIORITY"] for one in said} == {"3"}
    assert {one["_UID"] for one in said} == {machine.ok("id", "-u", USER).strip()}
    assert said[0]["MESSAGE"].startswith("Error: "), said


@pytest.mark.parametrize("removed", [False, True], ids=["scheduled", "removed meanwhile"])
def test_stopped_in_the_midst_of_a_training(scheduled: Hospital, tmp_path: Path, removed: bool) -> None:
    machine = scheduled.machine
    number = scheduled.open_round(tmp_path, steps=2000)
    machine.ok("systemctl", "start", "--no-block", SERVICE)
    kept = machine.shared / "state" / "checkpoints" / f"round-{number}.training.safetensors"
    until(kept.exists, lambda: machine.ok("journalctl", "--no-pager", "-n", "50"))
    if removed:
        machine.fedsite("schedule", "remove", "--config", CONFIG)
    machine.ok("systemctl", "stop", SERVICE)
    ended = machine.properties(SERVICE, "LoadState", "ActiveState", "Result")
    assert ended == {"LoadState": "not-found" if removed else "loaded", "ActiveState": "inactive", "Result": "success"}
    assert kept.is_file()
    assert machine.run("pgrep", "-u", USER).stdout == "", "no process of its own is left"


def test_a_user_s_own_timer_runs_without_a_login(hospital: Hospital, tmp_path: Path) -> None:
    machine, number = hospital.machine, hospital.open_round(tmp_path)
    hospital.configure(hooks={})
    refused = machine.run("runuser", "-u", USER, "--", FEDSITE, "schedule", "install", "--user", "--config", CONFIG)
    assert refused.returncode == 78
    assert "only a service of the system's is given" in refused.stderr
    hospital.with_credential("identity", "renew", "--key-storage", "file")

    machine.ok("loginctl", "enable-linger", USER)
    as_user = ("systemctl", "--user", f"--machine={USER}@.host")
    until(
        lambda: not machine.run(*as_user, "is-active", "timers.target").returncode, lambda: "no manager of the user's"
    )
    installed = machine.fedsite("schedule", "install", "--every", "24h", "--config", CONFIG, user=USER)["data"]
    assert (installed["with"], installed["scope"], installed["runs"]) == ("systemd", "user", True)
    machine.ok(*as_user, "start", SERVICE)
    assert hospital.received(number) == 1
    assert machine.fedsite("schedule", "remove", "--config", CONFIG, user=USER)["outcome"] == "removed"
    assert machine.run(*as_user, "cat", TIMER).returncode
