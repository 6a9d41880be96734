"""Whether a run that root schedules will find what it needs: another user may do less, and a service sees less."""

import os
import pwd
import subprocess
from pathlib import Path

from fedsite.errors import ConfigurationError
from fedsite.jobs.schedule.run import Run, Way
from fedsite.site.config import SiteConfig

TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - whose names it takes to refuse them


def require(way: Way, run: Run, config_path: Path, config: SiteConfig) -> None:
    """Raises ConfigurationError for a schedule of the system's of which every run would fail."""
    program = Path(run.command[0])
    if way == "systemd":
        _require_seen(program, config_path, *_named(config))
    _require_usable(run.user, config_path, program)


def _named(config: SiteConfig) -> list[Path]:
    """Every file and folder that a run needs and the configuration names."""
    paths, hooks, network = config.paths, config.hooks, config.network
    named = (paths.state, paths.data, *paths.tasks, hooks.before_round, hooks.after_round)
    return [path for path in (*named, network.proxy_ca, network.proxy_login) if path]


def _require_seen(*needed: Path) -> None:
    """A service of the system's has temporary folders of its own. Raises ConfigurationError for what lies in others."""
    for path in needed:
        if any(place.is_relative_to(folder) for place in (path, path.resolve()) for folder in TEMPORARY):
            raise ConfigurationError(
                f"{path} lies in a temporary folder, which a service of the system's does not see.",
                "Move it to a folder that stays, such as /var/lib/fedsite; or use --with cron.",
            )


def _require_usable(user: str, config_path: Path, program: Path) -> None:
    """Raises ConfigurationError where root schedules for a user what that user can neither read nor run."""
    who = pwd.getpwnam(user)
    if who.pw_uid == 0:
        return
    groups = os.getgrouplist(user, who.pw_gid)
    for verb, permission, path in (("read", "-r", config_path), ("run", "-x", program)):
        test = ["/usr/bin/test", permission, str(path)]
        tried = subprocess.run(test, user=who.pw_uid, group=who.pw_gid, extra_groups=groups, cwd="/", check=False)
        if tried.returncode:
            raise ConfigurationError(
                f"{user}, to whom the state folder belongs, cannot {verb} {path}.",
                f"Such as: chown root:$(id -gn {user}) {path}; chmod g+r {path}; and see the folders above it.",
            )
