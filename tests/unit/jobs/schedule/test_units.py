"""Units: what systemd itself says of them, and what they lock and leave open."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.tools import require

from fedsite.jobs.schedule import presence, units
from fedsite.jobs.schedule.record import read
from fedsite.jobs.schedule.run import Run, Scope
from fedsite.jobs.schedule.systemd import Units
from fedsite.jobs.schedule.times import Schedule

SCHEDULE = Schedule(90, ("20:00-06:00",), weekends=True, zone="Europe/Zurich")
RUN = Run(
    SCHEDULE,
    (str(shutil.which("true")), "--quiet", "train-round", "--config", '/etc/a "site" 100%$x.yaml'),
    Path("/var/lib/fed site/100%"),
    "root",
    {"CUDA_VISIBLE_DEVICES": "0,1", "FEDSITE_TRAINING__DEVICE": "cuda"},
    ("fedsite-passphrase",),
)


def written(folder: Path, scope: Scope, run: Run = RUN) -> tuple[Path, Path]:
    service, timer = folder / f"{run.name}.service", folder / f"{run.name}.timer"
    service.write_text(units.service(run, scope))
    timer.write_text(units.timer(run))
    return service, timer


@pytest.mark.parametrize("scope", ["system", "user"])
def test_systemd_accepts_them(tmp_path: Path, scope: Scope) -> None:
    require("systemd-analyze", "systemd")
    command = ["systemd-analyze", "verify", "--man=no", f"--{scope}", *map(str, written(tmp_path, scope))]
    done = subprocess.run(
        command, env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_say_what_is_wrong(tmp_path: Path) -> None:
    require("systemd-analyze", "systemd")
    _, timer = written(tmp_path, "system")
    timer.write_text(timer.read_text().replace("*-*-*", "*-*-thursday"))
    done = subprocess.run(["systemd-analyze", "verify", str(timer)], capture_output=True, text=True)
    assert "Failed to parse calendar specification" in done.stderr


def test_what_a_service_of_the_system_may_do() -> None:
    text = units.service(RUN, "system")
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["SuccessExitStatus"] == "75 143"
    assert settings["ReadWritePaths"] == '"/var/lib/fed site/100%%"', "the state folder, and nothing else"
    assert settings["ProtectSystem"] == "strict"
    assert settings["NoNewPrivileges"] == "yes"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["LoadCredentialEncrypted"] == "fedsite-passphrase:/etc/credstore.encrypted/fedsite-passphrase"
    assert settings["ExecStart"].endswith('"--config" "/etc/a \\"site\\" 100%%$$x.yaml"')
    assert 'Environment="CUDA_VISIBLE_DEVICES=0,1"' in text


@pytest.mark.parametrize("scope", ["system", "user"])
def test_nothing_that_breaks_cuda_or_compilation(scope: Scope) -> None:
    """Each of them hides the GPU's files or forbids compiling just in time; the unit says so where it leaves it out."""
    text = units.service(RUN, scope)
    set_here = {line.split("=")[0] for line in text.splitlines() if "=" in line and not line.startswith("#")}
    forbidden = {
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "MemoryDenyWriteExecute",
        "ProcSubset",
    }
    assert not set_here & forbidden
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert all(name in comments for name in forbidden - {"DeviceAllow"})


def test_the_timer_makes_up_for_what_was_missed() -> None:
    text = units.timer(RUN)
    assert "Persistent=yes" in text
    assert f"RandomizedDelaySec={SCHEDULE.jitter_seconds}" in text
    assert "OnCalendar=Sat,Sun *-*-* " in text
    assert "Persistent=no" in units.timer(replace(RUN, made_up=False))


def test_in_a_folder_they_are_found_replaced_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)  # nobody to tell
    monkeypatch.setattr(presence, "BOOTED", tmp_path / "absent")
    place = Units("user", tmp_path / "units")
    assert place.find(RUN.name) is None
    place.install(RUN)
    assert place.holds(RUN)
    assert place.find(RUN.name) == read(units.timer(RUN))
    assert not place.runs(RUN.name), "no systemd is here"
    other = replace(RUN, schedule=Schedule(360))
    assert not place.holds(other)

    service = tmp_path / "units" / f"{RUN.name}.service"
    text = service.read_text()
    service.write_text(text.replace("NoNewPrivileges=yes", "NoNewPrivileges=no"))
    assert place.find(RUN.name).schedule is None, "changed by hand"
    service.write_text(units.service(other, "user"))
    assert place.find(RUN.name).schedule is None, "a kill between the two: they do not belong together"
    service.unlink()
    assert place.find(RUN.name).schedule is None

    place.install(other)
    assert place.find(RUN.name).schedule == Schedule(360)
    place.remove(RUN.name)
    assert list((tmp_path / "units").iterdir()) == []


SYSTEMCTL = """#!/bin/sh
echo "$*" >> {log}
case "$*" in *is-active*) exit {active};; *) exit 0;; esac
"""


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL.format(log=log, active=0))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(presence, "BOOTED", tmp_path)
    place = Units("system", tmp_path / "units")
    place.install(RUN)
    timer = f"{RUN.name}.timer"
    told = ["--system daemon-reload", f"--system enable {timer}", f"--system restart {timer}"]
    assert log.read_text().splitlines() == told
    assert place.holds(RUN)
    place.remove(RUN.name)
    assert log.read_text().splitlines()[-4:] == [
        f"--system disable --now {timer}",
        f"--system clean --what=state {timer}",
        f"--system show {RUN.name}.service --property=ActiveState --value",
        "--system daemon-reload",
    ]

    program.write_text(SYSTEMCTL.format(log=log, active=3))
    place.install(RUN)
    assert not place.holds(RUN), "it is there, but somebody has stopped it: then install starts it again"
