"""What a schedule runs, as whom, with which credentials, and whose file root may take for it."""

import os
from pathlib import Path

import pytest
from support.site import Site

from fedsite.errors import ConfigurationError
from fedsite.jobs.schedule import install, run
from fedsite.jobs.schedule.record import name_of
from fedsite.jobs.schedule.run import GIVEN, Run
from fedsite.jobs.schedule.times import Schedule
from fedsite.site import config

NOBODY = 65534


@pytest.fixture
def own(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.set_up()
    return site


def with_login(site: Site, login: Path) -> Run:
    site.configure(network={"proxy": "http://proxy.example:3128", "proxy_login": str(login)})
    read = config.load(site.config)
    return run.of(site.config, read, Schedule.of(read.policy, 360, (), False))


def test_a_proxy_s_login_is_a_credential_of_this_service(own: Site) -> None:
    folder = GIVEN / f"{name_of(own.state)}.service"
    assert with_login(own, folder / "fedsite-proxy-login").credentials == ("fedsite-proxy-login",)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("other.service/fedsite-proxy-login", "another service"),
        ("{own}.service/backup-key", "not fedsite's: backup-key"),
    ],
)
def test_nobody_comes_by_another_s_credential(own: Site, place: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        with_login(own, GIVEN / place.format(own=name_of(own.state)))


def test_no_line_of_a_unit_can_be_smuggled_in(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSITE_TRAINING__DEVICE", "cpu\nUser=root")
    read = config.load(own.config, environment={})
    with pytest.raises(ConfigurationError, match="line break"):
        run.of(own.config, read, Schedule.of(read.policy, 360, (), False))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_root_takes_a_user_s_file_for_what_is_that_user_s(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_places", list)
    os.chown(own.config, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="another user than the state folder"):
        install.show(own.config)
    os.chown(own.state, NOBODY, NOBODY)
    assert install.show(own.config) == []
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        config.load(own.config)

    os.chown(own.config, 0, 0)
    assert install.show(own.config) == [], "root's own may name any state folder"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs for the system")
def test_a_service_is_not_installed_for_what_it_would_not_see(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "TEMPORARY", (own.data,))
    with pytest.raises(ConfigurationError, match="does not see") as caught:
        install.install(own.config, install.Asked(360, way="systemd", scope="system"))
    assert str(own.data) in caught.value.message
