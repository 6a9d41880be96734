"""This site's own programs around a round (`hooks` in site.yaml): run without shell, input and terminal, for a bounded
time, in an environment of their own. What they print goes nowhere: it may name anything (law 8).
"""

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsite.errors import ConfigurationError
from fedsite.jobs.site import Site
from fedsite.jobs.unattended import endings
from fedsite.jobs.unattended.endings import Ending
from fedsite.site import config as configuration
from fedsite.site.unattended import HookSettings

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BEFORE, AFTER = "before_round", "after_round"
HASTE_SECONDS = 2.0
"""What the hook after a round may take where the run was interrupted: whoever did that waits."""


class HookFailed(ConfigurationError):
    """A program of this site's own failed, cannot be run, or took too long."""

    code = "hook-failed"


@contextmanager
def around(site: Site, number: int) -> Iterator[None]:
    """Runs one before the round and one after it, however it ends.

    Raises HookFailed: from the first, then nothing inside has begun; from the second where the round itself went well.
    Where both failed the round's own error goes on, and the audit tells of the hook's.
    """
    _run(site, BEFORE, number, None)
    try:
        yield
    except BaseException as error:
        ending = endings.of_error(error)
        try:
            _run(site, AFTER, number, ending)
        except HookFailed as failure:
            site.warn(f"{failure.message} {failure.mend}")
        raise
    _run(site, AFTER, number, Ending("done"))


def require_runnable(settings: HookSettings, name: str) -> Path | None:
    """The program of a hook, None where none is named. Raises HookFailed when it is not to be trusted with a round."""
    path: Path | None = getattr(settings, name)
    if path is None:
        return None
    try:
        configuration.check_owner(path)
        runnable = path.is_file() and os.access(path, os.X_OK)
    except ConfigurationError as error:
        raise HookFailed(f"hooks.{name}: {error.message}", error.mend) from None
    except OSError as error:
        raise HookFailed(f"hooks.{name}: {path}: {error.strerror}.", "Mend the path in site.yaml.") from None
    if not runnable:
        raise HookFailed(f"hooks.{name}: {path} is no program that may be run.", f"Run: chmod u+x {path}")
    return path


def _run(site: Site, name: str, number: int, ending: Ending | None) -> None:
    settings = site.config.hooks
    program = require_runnable(settings, name)
    if program is None:
        return
    seconds = settings.seconds
    if ending is not None and ending.outcome == "interrupted":
        seconds = min(seconds, HASTE_SECONDS)
    code = _call(program, _environment(site, name, number, ending), seconds)
    site.state.audit("hook", hook=name, round=number, code=code)
    if code is None:
        raise HookFailed(
            f"The hook {name} ({program}) took more than {seconds:g} seconds, and was killed.",
            "Mend it, or give it longer: hooks.seconds.",
        )
    if code:
        how = f"ended with code {code}" if code > 0 else f"was killed by signal {-code}"
        so = "The round was not begun; the next run tries again." if ending is None else "The round is not affected."
        raise HookFailed(f"The hook {name} ({program}) {how}. {so}", "Mend it, or take it out of hooks in site.yaml.")


def _call(program: Path, environment: dict[str, str], seconds: float) -> int | None:
    """Its exit code, or minus the signal that ended it; None where it was out of time. It leads a group of its own, so
    that what it has started ends with it then.
    """
    try:
        process = subprocess.Popen(
            [program],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise HookFailed(f"{program} cannot be run: {error.strerror}.", "Does it begin with #!/bin/sh?") from None
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(site: Site, name: str, number: int, ending: Ending | None) -> dict[str, str]:
    """All that a hook finds in its environment."""
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = "/"
    pinned = site.pinned
    given = {
        "PATH": PATH,
        "HOME": home,
        "LANG": "C.UTF-8",
        "FEDSITE_HOOK": name,
        "FEDSITE_SITE": pinned.site,
        "FEDSITE_FEDERATION": pinned.federation,
        "FEDSITE_ROUND": str(number),
    }
    if ending is not None:
        given |= {"FEDSITE_OUTCOME": ending.outcome, "FEDSITE_EXIT_CODE": str(ending.exit_code)}
    return given
