"""What a schedule runs, as whom, and what it brings along: neither cron nor systemd knows anything of a login."""

import os
import pwd
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
OWN = "fedsite-"
"""How the names of credentials begin that a site may ask for."""


@dataclass(frozen=True)
class Run:
    """One site's scheduled participation. `credentials` are those that systemd must give it, by name."""

    schedule: Schedule
    command: tuple[str, ...]
    state: Path
    user: str
    environment: dict[str, str] = field(default_factory=dict)
    credentials: tuple[str, ...] = ()

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
    if not all(text.isprintable() for text in (*command, str(state), *brought.values())):
        raise ConfigurationError(
            "A path or variable of this schedule holds a line break, or what nobody can print.", "Rename it."
        )
    return Run(schedule, command, state, _owner(state), brought, _credentials(config))


def _program() -> tuple[str, ...]:
    """The command that belongs to this very Python, which an update or another environment in PATH does not change."""
    beside = Path(sys.executable).with_name("fedsite")
    found = str(beside) if beside.is_file() else shutil.which("fedsite")
    return (os.path.abspath(found),) if found else (sys.executable, "-P", "-m", "fedsite.cli.main")  # noqa: PTH100


def _owner(state: Path) -> str:
    number = state.stat().st_uid
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
        if not login.name.startswith(OWN):  # root gives it: a site's user must not come by others' in this way
            raise ConfigurationError(
                f"network.proxy_login names a credential that is not fedsite's: {login.name}.",
                f"Its name must begin with {OWN}, such as {OWN}proxy-login.",
            )
        names.append(login.name)
    return tuple(names)
