"""What runs on this machine: systemd, cron, and whether a user's timers go on without a login."""

import os
import shutil
import subprocess
from pathlib import Path

from fedsite.errors import CannotWrite
from fedsite.files import cannot_write
from fedsite.jobs.schedule.run import Scope

BOOTED = Path("/run/systemd/system")  # sd_booted(3)
PROCESSES = Path("/proc")
LONGEST_SECONDS = 60

Done = subprocess.CompletedProcess[str]


def systemd_runs(scope: Scope) -> bool:
    """Whether a service manager of that scope can be talked to."""
    if scope == "system":
        return BOOTED.is_dir()
    return BOOTED.is_dir() and Path(runtime_folder(), "systemd", "private").exists()


def cron_runs() -> bool:
    """Whether a cron daemon is among the processes."""
    names = (path for path in PROCESSES.glob("[0-9]*/comm"))
    return any(_read(path) in ("cron", "crond") for path in names)


def cron_is_here() -> bool:
    """Whether cron is installed, running or not."""
    return cron_runs() or shutil.which("crontab") is not None


def lingers(user: str) -> bool | None:
    """Whether a user's timers run while nobody is logged in; None where nobody can tell."""
    if shutil.which("loginctl") is None:
        return None
    done = ask("loginctl", "show-user", user, "--property=Linger", "--value")
    if done.returncode == 0:
        return done.stdout.strip() == "yes"
    return False if "not logged in or lingering" in done.stderr else None


def ask(*command: str) -> Done:
    """Runs one of systemd's programs, which must be here."""
    environment = os.environ | {"LC_ALL": "C", "XDG_RUNTIME_DIR": runtime_folder()}
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )


def runtime_folder() -> str:
    """Where a user's manager is found, also by what was started without a login."""
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def unlink(path: Path) -> None:
    """Removes a file if it is there. Raises CannotWrite."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def refused(what: str, done: Done) -> CannotWrite:
    """What a program of systemd's answered, as an error."""
    return CannotWrite(f"systemd refused to {what}: {first_line(done.stderr)}.", "See: journalctl -xe")


def first_line(text: str) -> str:
    """As much of a program's complaint as belongs into one of ours."""
    return text.strip().partition("\n")[0].rstrip(".") or "it did not say why"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # it has ended meanwhile
        return ""
