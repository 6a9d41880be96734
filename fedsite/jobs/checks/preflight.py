"""`fedsite check`: every pre-flight check runs, whatever the others say; each names problem and mend."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fedsite.dataset import manifest
from fedsite.errors import CannotWrite, DataNotFit, FedsiteError
from fedsite.jobs.checks import identity, network, policy, schedule, unattended
from fedsite.jobs.checks.findings import Check
from fedsite.jobs.lock import only_run
from fedsite.jobs.site import Site, open_site
from fedsite.jobs.training.local_work import require_nobody_withdrawn

LOW_DISK_BYTES = 2 * 10**9


def check(
    config_path: Path | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    notify: bool = False,
) -> list[Check]:
    """Runs all checks in order; with `notify` a test is sent to whoever is told how runs go.

    Never raises for a finding; the first one with status `error` decides the exit.
    """
    checks = CHECKS | ({"notifications": unattended.try_notifications} if notify else {})
    try:
        with open_site(config_path) as site:
            found = [Check("configuration", "ok", "The configuration and the state folder can be read.")]
            for number, (name, run) in enumerate(checks.items(), start=1):
                lacking = NEEDS.get(name) in {one.name for one in found if one.status in ("error", "skipped")}
                found.append(Check(name, "skipped", f"Needs {NEEDS[name]}.") if lacking else _guarded(name, run, site))
                progress(number, len(checks))
            return found
    except FedsiteError as error:
        skipped = [Check(name, "skipped", "Needs the configuration and the state folder.") for name in CHECKS]
        return [_failed("configuration", error), *skipped]


def _guarded(name: str, run: Callable[[Site], Check], site: Site) -> Check:
    try:
        return run(site)
    except FedsiteError as error:
        return _failed(name, error)


def _failed(name: str, error: FedsiteError) -> Check:
    return Check(name, "error", error.message, error.mend, error.exit_code)


def _records(site: Site) -> Check:
    lengths = site.state.verify()
    return Check("records", "ok", f"Ledger ({lengths['ledger']}) and audit ({lengths['audit']} records) are whole.")


def _lock(site: Site) -> Check:
    with only_run(site.state.folder):
        return Check("lock", "ok", "No other run is at work.")


def _disk(site: Site) -> Check:
    free = shutil.disk_usage(site.state.folder).free
    if free < LOW_DISK_BYTES:
        raise CannotWrite(f"Only {free / 1e9:.1f} GB are free in the state folder.", "Free some space.")
    if not os.access(site.state.folder, os.W_OK):
        raise CannotWrite("The state folder cannot be written.", "Mend its permissions.")
    return Check("disk", "ok", f"{free / 1e9:.0f} GB are free.")


def _data(site: Site) -> Check:
    found = manifest.load(site.config.paths.data)
    require_nobody_withdrawn(site, found)
    training, validation = len(found.of_split("training")), len(found.of_split("validation"))
    missing = [case.id for case in found.cases if not (site.config.paths.data / case.file).is_file()]
    if missing:
        raise DataNotFit(f"{len(missing)} prepared cases are gone, {missing[0]} first.", "Run fedsite prepare-data.")
    if found.task not in site.config.policy.tasks:
        return Check("data", "warning", f"The prepared task {found.task} is not in policy.tasks.", "Add it there.")
    return Check("data", "ok", f"{training} cases for training, {validation} held out, task {found.task}.")


def _device(site: Site) -> Check:
    import torch

    from fedsite.training.devices import choose_devices

    settings = site.config.training
    gpus = [device for device in choose_devices(settings.device, settings.devices) if device.type == "cuda"]
    if not gpus:
        return Check(
            "device", "warning", "No GPU: training runs on the CPU, which is slow.", "Fine for a small network."
        )
    told, crowded = [], False
    for device in gpus:
        free, total = torch.cuda.mem_get_info(device)
        crowded |= free < total / 2
        told.append(f"{torch.cuda.get_device_name(device)}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    words = f"{'GPUs' if len(gpus) > 1 else 'GPU'} {'; '.join(told)}."
    if crowded:
        return Check("device", "warning", words, "Others compute there too: train at another time, or on another GPU.")
    return Check("device", "ok", words)


CHECKS: dict[str, Callable[[Site], Check]] = {
    "records": _records,
    "lock": _lock,
    "disk": _disk,
    "data": _data,
    "certificate": identity.certificate,
    "agreement": policy.agreement,
    "hours": policy.open_hours,
    "plans": policy.plans,
    "schedule": schedule.schedule,
    "hooks": unattended.own_programs,
    "notifications": unattended.notifications,
    "failures": unattended.failures,
    "key": identity.key,
    "key-as-cron": identity.key_unattended,
    "proxy": network.proxy,
    "network": network.network,
    "clock": network.clock,
    "server": network.server,
    "upload": network.upload,
    "device": _device,
}
# What a check says nothing without: the same failure, told twice, would hide that it is one.
NEEDS = {"key-as-cron": "key", "network": "proxy", "clock": "network", "server": "network", "upload": "server"}
