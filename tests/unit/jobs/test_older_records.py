"""Records of an older fedsite, met by a job: who only looks changes nothing, and says so; who writes upgrades them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.site import Site

from fedsite.errors import RecordsDamaged
from fedsite.jobs import status
from fedsite.jobs.audit import verify
from fedsite.jobs.checks import preflight
from fedsite.jobs.site import open_ledger, open_site
from fedsite.site.migrations import BACKUPS, VERSION, version_of


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "site")
    site.set_up()
    with open_site(site.config):
        pass  # the policy is noted
    with closing(sqlite3.connect(site.state / "state.db")) as database:
        database.execute("drop table made_by")
        database.execute("pragma user_version = 2")
    return site


def version(site: Site) -> int:
    with closing(sqlite3.connect(site.state / "state.db")) as database:
        return version_of(database)


def test_who_only_looks_leaves_them_as_they_are(site: Site) -> None:
    before = (site.state / "state.db").read_bytes()
    [warning] = status.status(site.config)["warnings"]
    assert "an older fedsite" in warning["message"]
    assert "fedsite check, or train-round" in warning["mend"]
    assert verify.verify_own(site.config)["records"] == {"ledger": 1, "audit": 3}
    with open_ledger(site.config) as (ledger, _):
        assert ledger.terms.epsilon == 8
    assert (site.state / "state.db").read_bytes() == before
    assert not (site.state / BACKUPS).exists()


def test_check_writes_and_so_brings_them_up_to_date(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preflight, "CHECKS", {})
    assert [one.status for one in preflight.check(site.config)] == ["ok"]
    assert version(site) == VERSION
    assert caplog.text.count("This site's records were brought from version 2 to") == 1
    assert status.status(site.config)["warnings"] == []


def test_a_newer_fedsites_are_refused_by_every_job(site: Site) -> None:
    with closing(sqlite3.connect(site.state / "state.db")) as database:
        database.execute("pragma user_version = 99")
    for job in (status.status, verify.verify_own):
        with pytest.raises(RecordsDamaged, match="version 99") as refused:
            job(site.config)
        assert refused.value.exit_code == 74
    [configuration, *others] = preflight.check(site.config)
    assert (configuration.status, configuration.exit_code) == ("error", 74)
    assert "Install the newer fedsite again" in configuration.mend
    assert {one.status for one in others} == {"skipped"}
