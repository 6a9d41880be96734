"""`kill -9` of a renewal, and of an enrolment, after each thing of theirs that lasts.

Promised: one working identity at any moment, and the next run finishes what was begun.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import processes
from support import site as sites_under_test
from support.certificates import generous, grow_old
from support.federation import Server
from support.site import Site

from fedsite.errors import NotAuthorised
from fedsite.jobs import enroll, renew
from fedsite.jobs.site import client_of, open_site
from fedsite.site import identity, versions
from fedsite.wire.enrolment import Invitation

KILLER = str(Path(sites_under_test.__file__).with_name("identity_killer.py"))
MOST_STEPS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that issues as many certificates as there are steps at which something can be killed."""
    with generous(tmp_path_factory.mktemp("federation") / "server") as server:
        yield server


def killed_at_each_step(site: Site, *args: str, stdin: Callable[[], str] = str, stride: int = 1) -> Iterator[str]:
    """Runs the command from the same state again and again, killed `stride` later each time, until it finishes."""
    before = site.home / "before"
    shutil.copytree(site.state, before)
    for step in range(1, MOST_STEPS, stride):
        shutil.rmtree(site.state)
        shutil.copytree(before, site.state)
        said = stdin()
        environment = {"PATH": "/usr/bin:/bin", "FEDSITE_CONFIG": str(site.config), "KILL_AT": f"step:{step}"}
        answer = processes.run([KILLER, *args, "--json"], environment, said)
        if answer.code != -9:
            assert answer.code == 0, answer
            assert step > 10, "it was to be killed more often"
            return
        yield said
    raise AssertionError("it never finished")


def in_use(site: Site) -> str:
    """The certificate in use, which works, with its key: the one that `current` names, and no other."""
    with open_site(site.config) as opened:
        files, pinned = opened.files, opened.pinned
        with client_of(files, opened.config, pinned.server, opened.witness, files.current) as client:
            assert client.trust().site == pinned.site
        opened.state.verify()
        return identity.certificate(files).sha256


def recorded(site: Site, event: str) -> list[str]:
    with open_site(site.config) as opened:
        found = [one.body for one in opened.state.records("audit") if one.body.get("event") == event]
    return [one["certificate_sha256"] for one in found]


def test_a_renewal(server: Server, site: Site) -> None:
    grow_old(server, site, days=61)
    old = in_use(site)
    switched = []
    for _ in killed_at_each_step(site, "identity", "renew"):
        found = in_use(site)
        switched.append(found != old)
        if switched[-1]:
            assert recorded(site, "certificate renewed")[-1] == found, "nothing is done without its record"
        with open_site(site.config) as opened:
            renew.renew_if_due(opened)
            assert identity.certificate(opened.files).days_left() > 89
            assert versions.pending(opened.files) is None
    assert switched == sorted(switched)
    assert set(switched) == {True, False}


def test_an_enrolment(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "new")
    site.init()
    command = ("enroll", "--invitation", "-")
    for line in killed_at_each_step(site, *command, stdin=lambda: server.invite("new"), stride=3):
        try:
            found = in_use(site)
            assert recorded(site, "enrolled")[-1] == found
        except NotAuthorised:
            assert not (site.state / "identity" / "current").exists()
        with open_site(site.config) as opened:
            enroll.enroll(opened, Invitation.decode(line))
            assert versions.pending(opened.files) is None
