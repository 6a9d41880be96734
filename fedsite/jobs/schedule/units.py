"""The two units of a schedule: a service that takes part once, and the timer that starts it.

A service of the system is locked into what a round needs. One of a user has fewer locks: those that need a namespace of
their own take a user namespace there, which many kernels forbid and in which a GPU's files may not be opened.
"""

from fedsite.jobs.schedule.record import sealed
from fedsite.jobs.schedule.run import KEPT, Run, Scope
from fedsite.jobs.schedule.times import rules

LOCKS = """\
# The service may do what a round needs, and nothing more.
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
# Left out on purpose, since each of them breaks the training:
#   PrivateDevices, DevicePolicy, ProtectClock: CUDA opens /dev/nvidia*, which they hide or forbid.
#   MemoryDenyWriteExecute: CUDA and torch.compile compile just in time, and then run what they have written.
#   ProcSubset: the GPU's driver is asked in /proc/driver.
"""

SYSTEM_LOCKS = """\
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
# Prepared data are only read by a round; all that it writes lies in the state folder.
ReadWritePaths={state}
# What CUDA and torch compile just in time is kept for the next night.
CacheDirectory=%N
CacheDirectoryMode=0700
Environment=CUDA_CACHE_PATH=%C/%N/cuda TORCHINDUCTOR_CACHE_DIR=%C/%N/inductor TRITON_CACHE_DIR=%C/%N/triton
"""

SERVICE = """\
[Unit]
Description=fedsite: this site's part in a round, if one is due
Documentation=man:systemd.exec(5)
{after}
[Service]
Type=oneshot
{user}ExecStart={command}
# 75: it is not the time, which is no failure. 143: stopped by a person or a shutdown, with what was done kept.
SuccessExitStatus=75 143
# A training that is told to stop ends after the step that it is at, and ends its worker processes itself.
KillMode=mixed
TimeoutStopSec=30
{given}{locks}"""

TIMER = """\
[Unit]
Description=fedsite: when this site looks whether a round is due

[Timer]
{calendar}
{missed}
# By chance, so that sites that share a server do not come all at once.
RandomizedDelaySec={jitter}

[Install]
WantedBy=timers.target
"""

MADE_UP = """\
# A start that was missed, because the machine was off or asleep, is made up for.
Persistent=yes"""

LEFT_OUT = """\
# A start that was missed is not made up for: it would come outside of the windows, where the policy lets a run work.
Persistent=no"""

# A user's manager knows neither of them.
AFTER = """\
Wants=network-online.target
# Without new privileges a round cannot make the GPU's device files: this service does, or nvidia-modprobe at boot.
After=network-online.target nvidia-persistenced.service
"""


def service(run: Run, scope: Scope) -> str:
    """The text of NAME.service (systemd.service(5), systemd.exec(5))."""
    system = scope == "system"
    given = [f"LoadCredentialEncrypted={name}:{KEPT / name}\n" for name in run.credentials]
    given += [f"Environment={_word(f'{name}={value}')}\n" for name, value in run.environment.items()]
    body = SERVICE.format(
        after=AFTER if system else "",
        user=f"User={run.user}\n" if system else "",
        command=" ".join(_word(word).replace("$", "$$") for word in run.command),
        given="".join(given),
        locks=LOCKS + (SYSTEM_LOCKS.format(state=_word(str(run.state))) if system else ""),
    )
    return sealed(run.name, run.schedule, body)


def timer(run: Run) -> str:
    """The text of NAME.timer (systemd.timer(5))."""
    lines = [f"OnCalendar={rule.calendar(run.schedule.zone)}" for rule in rules(run.schedule.starts)]
    missed = MADE_UP if run.made_up else LEFT_OUT
    body = TIMER.format(calendar="\n".join(lines), missed=missed, jitter=run.schedule.jitter_seconds)
    return sealed(run.name, run.schedule, body)


def _word(text: str) -> str:
    """One word of a setting: its percent signs are no specifiers, its blanks and quotes its own (systemd.syntax(7))."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
