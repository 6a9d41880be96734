"""`fedsite check`: everything is looked at, whatever the first finding is."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedsite.errors import DataNotFit, NotAuthorised, RecordsDamaged
from fedsite.jobs.checks import network
from fedsite.jobs.checks import preflight as job
from fedsite.jobs.checks.findings import Check
from fedsite.jobs.checks.preflight import CHECKS, check
from fedsite.jobs.lock import only_run
from fedsite.jobs.site import Site, open_site
from fedsite.wire.messages import FederationInfo

PASSING = Check("passing", "ok", "Fine.")


def refusing(_: Site) -> Check:
    raise DataNotFit("Two cases are gone.", "Prepare them again.")


def passing(_: Site) -> Check:
    return PASSING


def test_every_check_runs_whatever_the_others_say(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHECKS", {"first": refusing, "second": passing, "third": refusing})
    moved: list[tuple[int, int]] = []
    found = check(config, lambda done, total: moved.append((done, total)))
    assert [(one.name, one.status) for one in found] == [
        ("configuration", "ok"),
        ("first", "error"),
        ("passing", "ok"),
        ("third", "error"),
    ]
    assert found[1] == Check("first", "error", "Two cases are gone.", "Prepare them again.", 65)
    assert moved == [(1, 3), (2, 3), (3, 3)]


def test_what_needs_another_check_says_nothing_without_it(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHECKS", {"network": refusing, "server": passing, "upload": passing, "disk": passing})
    assert [(one.name, one.status, one.message) for one in check(config)[1:]] == [
        ("network", "error", "Two cases are gone."),
        ("server", "skipped", "Needs network."),
        ("upload", "skipped", "Needs server."),
        ("passing", "ok", "Fine."),
    ]


def test_without_a_configuration_the_rest_is_skipped_by_name(tmp_path: Path) -> None:
    first, *rest = check(tmp_path / "absent.yaml")
    assert (first.name, first.status, first.exit_code) == ("configuration", "error", 78)
    assert [(one.name, one.status) for one in rest] == [(name, "skipped") for name in CHECKS]


def test_a_foreign_state_folder_is_the_first_finding(config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").chmod(0o755)
    first, *rest = check(config)
    assert (first.status, first.exit_code) == ("error", 74)
    assert {one.status for one in rest} == {"skipped"}


def run(config: Path, name: str) -> Check:
    with open_site(config) as site:
        return job._guarded(name, CHECKS[name], site)


def test_a_new_site_lacks_its_certificate_and_its_data(config: Path) -> None:
    assert run(config, "records").status == "ok"
    assert run(config, "lock").status == "ok"
    for name in ("certificate", "agreement", "key", "proxy", "network", "clock", "server", "upload"):
        assert (run(config, name).status, run(config, name).exit_code) == ("error", NotAuthorised.exit_code), name
    assert run(config, "data").status == "error"
    assert run(config, "data").mend


def test_damaged_records_are_an_error(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_: object) -> dict[str, int]:
        raise RecordsDamaged("Record 3 of the ledger was altered.", "Keep it.")

    monkeypatch.setattr("fedsite.site.state.State.verify", damaged)
    found = run(config, "records")
    assert (found.status, found.exit_code, found.message) == ("error", 74, "Record 3 of the ledger was altered.")


def test_a_run_at_work_is_a_finding(config: Path, tmp_path: Path) -> None:
    with only_run(tmp_path / "state"):
        assert (run(config, "lock").status, run(config, "lock").exit_code) == ("error", 75)


def test_a_full_disk_is_a_finding(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = job.shutil.disk_usage("/")
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: real._replace(free=job.LOW_DISK_BYTES - 1))
    assert (run(config, "disk").status, run(config, "disk").exit_code) == ("error", 73)
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: real._replace(free=job.LOW_DISK_BYTES))
    assert run(config, "disk").status == "ok"


@pytest.mark.parametrize(
    ("skew", "status", "words"),
    [
        (0.5, "ok", "0 s"),
        (120, "ok", ""),
        (121, "error", "0:02:01 ahead of"),
        (-500, "error", "0:08:20 behind"),
        (400 * 86_400, "error", "400 days, 0:00:00 ahead of"),
        (None, "warning", ""),
    ],
)
def test_a_clock_that_is_wrong(
    config: Path, monkeypatch: pytest.MonkeyPatch, skew: float | None, status: str, words: str
) -> None:
    monkeypatch.setattr(network, "_ask", lambda _: (FederationInfo(protocol_versions=[1]), skew))
    found = run(config, "clock")
    assert found.status == status
    assert words in found.message


def test_findings_are_values() -> None:
    assert replace(PASSING, status="error") != PASSING


class _Gpus:
    """Two GPUs, of which the second is in use by others; sizes in bytes."""

    free = (70e9, 9e9)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model {device.index or 0}")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.free[device.index or 0], 80e9))


def on(config: Path, **settings: object) -> Check:
    """The check of devices under other settings of `training`."""
    with open_site(config) as site:
        training = site.config.training.model_copy(update=settings)
        return job._guarded(
            "device", CHECKS["device"], replace(site, config=site.config.model_copy(update={"training": training}))
        )


def test_every_gpu_that_is_named_is_looked_at(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(config, device="cpu").status == "warning"
    assert (on(config, device="cuda").status, on(config, device="cuda").exit_code) == ("error", 78)
    _Gpus(monkeypatch)
    assert on(config) == Check("device", "ok", "GPU model 0: 70.0 of 80.0 GB free.")
    both = on(config, devices=(0, 1))
    assert both.status == "warning"
    assert both.message == "GPUs model 0: 70.0 of 80.0 GB free; model 1: 9.0 of 80.0 GB free."
    absent = on(config, devices=(0, 2))
    assert (absent.status, absent.exit_code) == ("error", 78)
    assert "no GPU 2: this machine shows 2" in absent.message
