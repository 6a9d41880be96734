"""What a schedule runs, as whom, with which credentials, and what root does not do for others."""

import os
from pathlib import Path

import pytest
from support.site import Site

from fedsite.errors import ConfigurationError
from fedsite.jobs.schedule import install, reach, run
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


def scheduled(site: Site) -> Run:
    read = config.load(site.config)
    return run.of(site.config, read, Schedule.of(read.policy, 360, (), False))


def with_login(site: Site, login: Path) -> Run:
    site.configure(network={"proxy": "http://proxy.example:3128", "proxy_login": str(login)})
    return scheduled(site)


def test_a_proxy_s_login_is_a_credential_of_this_service(own: Site) -> None:
    folder = GIVEN / f"{name_of(own.state)}.service"
    assert with_login(own, folder / "fedsite-proxy-login").credentials == ("fedsite-proxy-login",)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("other.service/fedsite-proxy-login", "another service"),
        ("{own}.service/fedsite:other", "no unit can hold"),
        ("{own}.service/fedsite%n", "no unit can hold"),
        ("{own}.service/fedsite-x\nExecStartPre=+sh -c id\n#", "no unit can hold"),
    ],
)
def test_what_is_no_credential_of_this_service(own: Site, place: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        with_login(own, GIVEN / place.format(own=name_of(own.state)))


def test_a_variable_cannot_add_a_line_to_a_unit(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSITE_TRAINING__DEVICE", "cpu\nUser=root")
    read = config.load(own.config, environment={})
    with pytest.raises(ConfigurationError, match="line break"):
        run.of(own.config, read, Schedule.of(read.policy, 360, (), False))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_root_takes_no_file_of_a_user_s(own: Site) -> None:
    os.chown(own.config, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="belongs to another user") as caught:
        install.show(own.config)
    assert f"chown root {own.config}" in caught.value.mend


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_nobody_can_put_another_folder_in_the_state_folder_s_place(own: Site) -> None:
    os.chown(own.home, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="belongs to neither root nor that folder's owner"):
        scheduled(own)
    os.chown(own.state, NOBODY, NOBODY)
    assert scheduled(own).user == "nobody"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs for others")
def test_a_user_who_cannot_read_the_configuration_is_not_started_in_vain(
    own: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "TEMPORARY", ())
    os.chown(own.state, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match=f"nobody, to whom the state folder belongs, cannot read {own.config}"):
        install.install(own.config, install.Asked(360, way="systemd", scope="system"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs for the system")
def test_a_service_is_not_installed_for_what_it_would_not_see(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "TEMPORARY", (own.data,))
    with pytest.raises(ConfigurationError, match="does not see") as caught:
        install.install(own.config, install.Asked(360, way="systemd", scope="system"))
    assert str(own.data) in caught.value.message
