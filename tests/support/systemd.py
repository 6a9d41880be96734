"""A machine that systemd runs: the real one, in namespaces of its own (`boot_systemd`)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.processes import FEDSITE
from support.tools import require

BOOT = Path(__file__).with_name("boot_systemd")
SHARED = Path("/srv/hospital")
USER = "hospital"
NAMESPACES = ("--mount", "--pid", "--cgroup", "--uts", "--ipc")
UNSHARE = ("unshare", *NAMESPACES, "--fork", "--kill-child", "--propagation=private")
PROBE = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/changes /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work /mnt/root
mknod /mnt/null c 1 3
"""
WITHOUT = "-sys_time,-sys_module,-sys_boot,-net_admin"
"""Capabilities that nobody there has: what they change would be this machine's own."""
CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Machine:
    """`first` is its first process, as this machine numbers it; `shared` is what is /srv/hospital over there."""

    first: int
    shared: Path

    def run(self, *command: str, stdin: str = "", timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        """Runs a command there, as root, as from a login."""
        enter = ["nsenter", f"--target={self.first}", *NAMESPACES, "--root", "--wd"]
        bound = ["setpriv", f"--bounding-set={WITHOUT}"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        return subprocess.run(
            [*enter, *bound, *environment, *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *command: str, stdin: str = "", timeout: float = 120) -> str:
        """The same; it must succeed. Gives what it printed."""
        done = self.run(*command, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def fedsite(self, *args: str, user: str = "root", stdin: str = "") -> dict[str, Any]:
        """`fedsite ARGS --json` as a user; it must succeed. Gives its answer."""
        as_user = ["runuser", "-u", user, "--"] if user != "root" else []
        answer: dict[str, Any] = json.loads(self.ok(*as_user, FEDSITE, *args, "--json", stdin=stdin))
        return answer

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """What systemd says of a unit."""
        lines = self.ok("systemctl", "show", unit, f"--property={','.join(names)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self, unit: str, *options: str) -> list[dict[str, Any]]:
        """What the journal holds of a unit's own processes."""
        said = self.ok("journalctl", "--quiet", "--output=json", f"_SYSTEMD_UNIT={unit}", *options)
        return [json.loads(line) for line in said.splitlines()]


@contextmanager
def booted(scratch: Path) -> Iterator[Machine]:
    """Boots one, with a user `hospital`. Skips with the reason where this machine does not let us."""
    _require_possible()
    view, shared = scratch / "view", scratch / "shared"
    view.mkdir()
    shared.mkdir()
    group = _cgroup(scratch.name)
    with (scratch / "boot.log").open("w") as log:
        process = subprocess.Popen(
            [*UNSHARE, str(BOOT), str(view), str(shared), WITHOUT],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        )  # fmt: skip
    try:
        machine = Machine(_first(process, scratch / "boot.log"), shared)
        _wait_until_up(machine)
        _admit(machine)
        yield machine
    finally:
        process.kill()
        process.wait(60)
        _remove(group)


def _require_possible() -> None:
    """Skips with the reason where no machine can be booted; what goes wrong later is a failure."""
    for program, package in (("systemctl", "systemd"), ("dbus-daemon", "dbus"), ("setpriv", "util-linux")):
        require(program, package)
    if os.geteuid() != 0:
        pytest.skip("only root can boot a systemd of its own")
    program = Path(FEDSITE)
    if any(program.is_relative_to(folder) for folder in ("/tmp", "/var/tmp")):
        pytest.skip("the checkout lies in a temporary folder, which a service of systemd's does not see")
    if {path.stat().st_dev for path in (program, Path(sys.executable).resolve())} != {Path("/").stat().st_dev}:
        pytest.skip("the checkout, or its Python, lies on another file system than /, of which the machine is a view")
    tried = subprocess.run([*UNSHARE, "sh", "-c", PROBE], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine lets nobody have namespaces and overlays: {tried.stderr.strip()}")


def _cgroup(name: str) -> Path:
    """A control group for it, below which systemd makes its own."""
    root = next((path for path in (CGROUPS, CGROUPS / "unified") if (path / "cgroup.procs").is_file()), None)
    if root is None:
        pytest.skip("no cgroup2 is mounted here")
    group = root / f"fedsite-test-{os.getpid()}-{name}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    return group


def _first(process: "subprocess.Popen[bytes]", log: Path) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with suppress(OSError):  # one of them has ended meanwhile
            for child in children.read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def _wait_until_up(machine: Machine) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while machine.run("systemctl", "is-active", "multi-user.target").returncode:
        assert time.monotonic() < end, machine.run("systemctl", "list-jobs").stdout
        time.sleep(0.2)


def _admit(machine: Machine) -> None:
    """A user who may run the Python that runs these tests, wherever it lies."""
    machine.ok("useradd", "--create-home", "--shell", "/bin/bash", USER)
    for program in (Path(FEDSITE), Path(sys.executable).resolve()):
        machine.ok("chmod", "a+x", *map(str, program.parents))
    machine.ok("chown", USER, str(SHARED))


def _remove(group: Path) -> None:
    """Its groups, from the innermost; they are free when the last process is gone."""
    end = time.monotonic() + PATIENCE_SECONDS
    for path in [*sorted((folder for folder in group.rglob("*") if folder.is_dir()), reverse=True), group]:
        while path.exists() and time.monotonic() < end:
            try:
                path.rmdir()
            except OSError:
                time.sleep(0.05)
