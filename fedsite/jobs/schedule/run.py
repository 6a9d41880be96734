"""What a schedule runs, as whom, and what it brings along: neither cron nor systemd knows anything of a login."""

import os
import pwd
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedsite.errors import ConfigurationError
from fedsite.jobs.schedule.record import name_of
from fedsite.jobs.schedule.times import Schedule
from fedsite.site.config import SiteConfig
from fedsite.site.identity import IdentityFiles
from fedsite.site.secrets import CREDENTIAL

Way = Literal["cron", "systemd"]
Scope = Literal["system", "user"]

# What decides where and with how much a machine computes. Proxies come from the configuration: their variables may hold
# a password, and every user can read a unit.
COMPUTING = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
GIVEN = Path("/run/credentials")
KEPT = Path("/etc/credstore.encrypted")
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
"""Of a credential, as it may stand in a unit: no specifier, no separator, no second line."""


@dataclass(frozen=True)
class Run:
    """One site's scheduled participation.

    `credentials` are those that systemd must give it, by name; `made_up`: a start that was missed comes later.
    """

    schedule: Schedule
    command: tuple[str, ...]
    state: Path
    user: str
    environment: dict[str, str] = field(default_factory=dict)
    credentials: tuple[str, ...] = ()
    made_up: bool = True

    @property
    def name(self) -> str:
        """Of its units, and of its lines in a crontab."""
        return name_of(self.state)


def of(config_path: Path, config: SiteConfig, schedule: Schedule, environment: Mapping[str, str] = os.environ) -> Run:
    """A site's run, as the owner of its state folder. Raises ConfigurationError where there is none, or no way to say
    it in one line.
    """
    state = config.paths.state
    if not state.is_dir():
        raise ConfigurationError(f"There is no state folder at {state}.", "Make it with: fedsite init")
    command = (*_program(), "--quiet", "train-round", "--config", str(config_path))
    brought = {
        name: value
        for name, value in sorted(environment.items())
        if name in COMPUTING or (name.startswith("FEDSITE_") and "__" in name)
    }
    user, credentials = _owner(state), _credentials(config)
    if not all(text.isprintable() for text in (*command, str(state), user, *credentials, *brought.values())):
        raise ConfigurationError(
            "A path or variable of this schedule holds a line break, or what nobody can print.", "Rename it."
        )
    made_up = schedule.may_be_made_up(config.policy)
    return Run(schedule, command, state, user, brought, credentials, made_up)


def _program() -> tuple[str, ...]:
    """The command that belongs to this very Python, which an update or another environment in PATH does not change."""
    beside = Path(sys.executable).with_name("fedsite")
    found = str(beside) if beside.is_file() else shutil.which("fedsite")
    return (os.path.abspath(found),) if found else (sys.executable, "-P", "-m", "fedsite.cli.main")  # noqa: PTH100


def _owner(state: Path) -> str:
    """Who takes part. For root, only where nobody else could put another folder, and so another user, in that place."""
    real = state.resolve()
    number = real.stat().st_uid
    if os.geteuid() == 0:
        for path in (real, *real.parents):
            if path.lstat().st_uid not in (0, number):
                raise ConfigurationError(
                    f"{path}, in which the state folder lies, belongs to neither root nor that folder's owner.",
                    "Move the state folder, or give that folder to one of them.",
                )
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        raise ConfigurationError(f"The state folder belongs to uid {number}, which is no user here.") from None


def _credentials(config: SiteConfig) -> tuple[str, ...]:
    """What only systemd gives: the passphrase of the key, the proxy's login."""
    names = []
    if IdentityFiles(config.paths.state / "identity").current.choice.place.storage == "credentials":
        names.append(CREDENTIAL)
    login = config.network.proxy_login
    if login is not None and login.is_relative_to(GIVEN):
        unit = f"{name_of(config.paths.state)}.service"
        if login.parent != GIVEN / unit:
            raise ConfigurationError(
                f"network.proxy_login names a credential of another service: {login}.",
                f"Write {GIVEN / unit / login.name} there.",
            )
        if not NAME.fullmatch(login.name):
            raise ConfigurationError(
                "network.proxy_login names a credential with characters that no unit can hold.",
                "Letters, digits, dots, hyphens and underscores will do, such as fedsite-proxy-login.",
            )
        names.append(login.name)
    return tuple(names)
