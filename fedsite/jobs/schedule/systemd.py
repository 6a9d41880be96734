"""A schedule as units of systemd, of the system or of a user."""

import shutil
from pathlib import Path
from typing import ClassVar

from platformdirs import user_config_path

from fedsite.files import make_folder, write_atomically
from fedsite.jobs.schedule import presence, units
from fedsite.jobs.schedule.place import Place
from fedsite.jobs.schedule.record import Found, read
from fedsite.jobs.schedule.run import Run, Scope, Way

SYSTEM_UNITS = Path("/etc/systemd/system")


class Units(Place):
    """Two files in a folder that systemd reads: that for what an administrator, or a user, adds (systemd.unit(5)).

    Where no systemd runs they are written, and wait for one.
    """

    way: ClassVar[Way] = "systemd"

    def __init__(self, scope: Scope, folder: Path | None = None) -> None:
        self.scope = scope
        self.folder = folder or (SYSTEM_UNITS if scope == "system" else user_config_path("systemd") / "user")

    def where(self, name: str) -> str:
        """For people."""
        return f"{self.folder / name}.service and .timer"

    def find(self, name: str) -> Found | None:
        """What is installed; changed, too, where one of the two is missing, or they do not belong together."""
        found = [read(path.read_text(errors="replace")) for path in self._files(name) if path.is_file()]
        if not found:
            return None
        return found[0] if len(found) == 2 and found[0] == found[1] else Found(None)

    def runs(self, name: str) -> bool:
        """Whether systemd is waiting for the timer's next time, and will after a boot."""
        asked = ("is-active", "is-enabled")
        answers = (self._systemctl(one, "--quiet", f"{name}.timer").returncode for one in asked)
        return presence.systemd_runs(self.scope) and not any(answers)

    def holds(self, run: Run) -> bool:
        """Whether both files are exactly this, and the timer goes if it can."""
        texts = self._texts(run).items()
        same = all(path.is_file() and path.read_bytes() == text for path, text in texts)
        return same and (not presence.systemd_runs(self.scope) or self.runs(run.name))

    def install(self, run: Run) -> None:
        """Writes both and has systemd go by them."""
        make_folder(self.folder)
        for path, text in self._texts(run).items():
            write_atomically(path, text)
        timer = f"{run.name}.timer"
        running = presence.systemd_runs(self.scope)
        if running:
            self._require("read its units anew", "daemon-reload")
        if shutil.which("systemctl"):
            self._require("enable the timer", "enable", timer)
        if running:
            self._require("start the timer", "restart", timer)

    def remove(self, name: str) -> None:
        """Stops the timer, not a run that is at work, and removes both files."""
        service, timer = self._files(name)
        running = presence.systemd_runs(self.scope)
        if shutil.which("systemctl") and timer.is_file():
            self._require("disable the timer", "disable", *(["--now"] if running else []), timer.name)
            if running:  # else a schedule that comes later would make up for all the time without one
                self._systemctl("clean", "--what=state", timer.name)
        at_work = running and self._is_at_work(name)
        presence.unlink(timer)
        presence.unlink(service)
        if running and not at_work:  # else it would forget how to end the run: what 143 means, whom to send SIGTERM
            self._require("read its units anew", "daemon-reload")

    def _is_at_work(self, name: str) -> bool:
        state = self._systemctl("show", f"{name}.service", "--property=ActiveState", "--value").stdout.strip()
        return state in ("activating", "active", "deactivating")

    def _texts(self, run: Run) -> dict[Path, bytes]:
        service, timer = self._files(run.name)
        return {service: units.service(run, self.scope).encode(), timer: units.timer(run).encode()}

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.service", self.folder / f"{name}.timer"

    def _systemctl(self, *args: str) -> presence.Done:
        return presence.ask("systemctl", f"--{self.scope}", *args)

    def _require(self, what: str, *args: str) -> None:
        done = self._systemctl(*args)
        if done.returncode:
            raise presence.refused(what, done)
