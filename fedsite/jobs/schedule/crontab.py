"""A schedule in a crontab: a marked part of a user's own, or a file of /etc/cron.d.

A user's crontab is somebody else's file: all other lines of it stay as they are, byte for byte, and it changes in one
step or not at all, since `crontab` is given a whole file and renames it into place.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from fedsite.errors import CannotWrite, ConfigurationError
from fedsite.files import write_atomically
from fedsite.jobs.schedule import presence
from fedsite.jobs.schedule.place import Place
from fedsite.jobs.schedule.record import MARK, Found, read, sealed
from fedsite.jobs.schedule.run import Run, Scope, Way
from fedsite.jobs.schedule.times import elsewhere, rules
from fedsite.site import hours

DROP_INS = Path("/etc/cron.d")
PROGRAMS = "/usr/bin:/bin"
LONGEST_COMMAND = 998  # cron's own limit, beyond which it takes no line


def lines(run: Run, user: str = "") -> str:
    """The lines of a crontab, each with full paths and its own lateness; with a column for the user in /etc/cron.d.

    No variable is set by a line of its own, which would hold for the lines of others below it.
    """
    starts = elsewhere(run.schedule.starts, run.schedule.place, hours.zone(None), datetime.now(UTC))
    command = _command(run)
    if len(command) > LONGEST_COMMAND:
        raise ConfigurationError(
            f"The line would be longer than cron takes ({len(command)} characters).",
            "Shorten the paths of fedsite and its configuration, or use --with systemd.",
        )
    return "".join(f"{rule.cron} {f'{user} ' if user else ''}{command}\n" for rule in rules(starts))


def _command(run: Run) -> str:
    """For cron's shell, whichever a line above says it is, and for cron, to which a percent sign ends the command."""
    sleep, shuffle, env = (shutil.which(name, path=PROGRAMS) or f"/usr/bin/{name}" for name in ("sleep", "shuf", "env"))
    brought = [env, *(f"{name}={value}" for name, value in run.environment.items())] if run.environment else []
    late = f"{sleep} $({shuffle} -i 0-{run.schedule.jitter_seconds} -n 1)"
    script = f"{late}; exec {shlex.join([*brought, *run.command])}"
    return shlex.join(["/bin/sh", "-c", script]).replace("%", "\\%")


class Table(Place):
    """The crontab of whoever runs fedsite."""

    way: ClassVar[Way] = "cron"
    scope: Scope = "user"

    def where(self, name: str) -> str:
        """For people."""
        return f"the lines of {name} in this user's crontab"

    def find(self, name: str) -> Found | None:
        """What is installed there. Raises CannotWrite when it cannot be read."""
        part = _cut(_read_table(), name)[1].decode(errors="replace")
        return read(part.removesuffix(f"{MARK} {name} end\n")) if part else None

    def runs(self, name: str) -> bool:
        """Whether anything starts it."""
        return self.find(name) is not None and presence.cron_runs()

    def holds(self, run: Run) -> bool:
        """Whether exactly these lines are there."""
        return _cut(_read_table(), run.name)[1] == _part(run)

    def install(self, run: Run) -> None:
        """Puts it in the place of what is there, or below everything else."""
        before, _, after = _cut(_read_table(), run.name)
        gap = b"\n" if before and not before.endswith(b"\n") else b""
        _write_table(before + gap + _part(run) + after)

    def remove(self, name: str) -> None:
        """Takes it out."""
        before, _, after = _cut(_read_table(), name)
        _write_table(before + after)


class DropIn(Place):
    """A file of the system's, which is fedsite's alone."""

    way: ClassVar[Way] = "cron"
    scope: Scope = "system"

    def __init__(self, folder: Path = DROP_INS) -> None:
        self.folder = folder

    def where(self, name: str) -> str:
        """For people."""
        return str(self.folder / name)

    def find(self, name: str) -> Found | None:
        """What is installed there."""
        path = self.folder / name
        return read(path.read_text(errors="replace")) if path.is_file() else None

    def runs(self, name: str) -> bool:
        """Whether anything starts it."""
        return self.find(name) is not None and presence.cron_runs()

    def holds(self, run: Run) -> bool:
        """Whether the file is exactly this."""
        path = self.folder / run.name
        return path.is_file() and path.read_bytes() == self._content(run)

    def install(self, run: Run) -> None:
        """Writes the file."""
        write_atomically(self.folder / run.name, self._content(run))

    def remove(self, name: str) -> None:
        """Removes it."""
        presence.unlink(self.folder / name)

    def _content(self, run: Run) -> bytes:
        return sealed(run.name, run.schedule, lines(run, run.user)).encode()


def _part(run: Run) -> bytes:
    return (sealed(run.name, run.schedule, lines(run)) + f"{MARK} {run.name} end\n").encode()


def _cut(table: bytes, name: str) -> tuple[bytes, bytes, bytes]:
    """What stands before, in, and after a schedule's part of a crontab; the part is empty where there is none."""
    head, end = f"{MARK} {name} {{".encode(), f"{MARK} {name} end\n".encode()
    whole = re.search(rb"^%s.*?^%s" % (re.escape(head), re.escape(end)), table, re.MULTILINE | re.DOTALL)
    if whole:
        return table[: whole.start()], whole[0], table[whole.end() :]
    if head in table:
        raise ConfigurationError(
            f"Nobody can tell where the lines of {name} end in your crontab: the last of them is gone.",
            "Remove them by hand (crontab -e); then run the command again.",
        )
    return table, b"", b""


def _read_table() -> bytes:
    """All of the crontab; nothing where there is none, or no cron."""
    if shutil.which("crontab") is None:
        return b""
    done = _crontab("-l")
    if done.returncode == 0:
        return done.stdout
    if b"no crontab for" in done.stderr:
        return b""
    raise _refused("read", done)  # to take this for an empty one would lose what is in it


def _write_table(table: bytes) -> None:
    if shutil.which("crontab") is None:
        raise ConfigurationError("There is no cron here.", "Install it, or use --with systemd.")
    if not table:
        done = _crontab("-r")
    else:
        # A file and not a pipe: half of what was meant, after a kill, would be taken for all of it.
        with tempfile.NamedTemporaryFile(prefix="fedsite-crontab-") as file:
            file.write(table)
            file.flush()
            done = _crontab(file.name)
    if done.returncode or _read_table() != table:
        raise _refused("changed", done)


def _crontab(*args: str) -> "subprocess.CompletedProcess[bytes]":
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        ["crontab", *args], env=environment, capture_output=True, timeout=presence.LONGEST_SECONDS, check=False
    )


def _refused(what: str, done: "subprocess.CompletedProcess[bytes]") -> CannotWrite:
    said = presence.first_line(done.stderr.decode(errors="replace"))
    return CannotWrite(f"The crontab could not be {what}: {said}.", "See crontab(1); /etc/cron.allow may name who may.")
