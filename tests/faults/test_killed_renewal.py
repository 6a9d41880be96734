"""`kill -9` of a renewal, and of an enrolment, after each step of theirs that lasts.

Promised: one working identity at any moment, and the next run finishes what was begun.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.certificates import files_of, generous, grow_old
from support.faulty import Fault, forked
from support.federation import Server
from support.site import Site

from fedsite.errors import NotAuthorised
from fedsite.jobs.identity import enroll, renew
from fedsite.jobs.site import client_of, open_site
from fedsite.site import identity, versions
from fedsite.wire.enrolment import Invitation

MOST_STEPS = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that issues as many certificates as there are steps at which something can be killed."""
    with generous(tmp_path_factory.mktemp("federation") / "server") as server:
        yield server


def killed_at_each_step(site: Site, begin: Callable[[], Callable[[], None]], stride: int = 1) -> Iterator[None]:
    """Does something from the same state again and again, killed `stride` steps later each time, until it is done."""
    before = site.home / "before"
    shutil.copytree(site.state, before)
    for step in range(1, MOST_STEPS, stride):
        shutil.rmtree(site.state)
        shutil.copytree(before, site.state)
        if forked(Fault("kill-after", step), begin()) == 0:
            assert step > 10, "it was to be killed more often"
            return
        yield
    raise AssertionError("it never finished")


def in_use(site: Site, event: str = "") -> str:
    """The certificate in use, which works, with its key: the one that `current` names, and no other.

    `event` is what the audit's newest record of its kind must say of it.
    """
    with open_site(site.config) as opened:
        files, pinned = opened.files, opened.pinned
        with client_of(files, opened.config, pinned.server, opened.witness, files.current) as client:
            assert client.trust().site == pinned.site
        opened.state.verify()
        found = identity.certificate(files).sha256
        told = [one.body for one in opened.state.records("audit") if one.body.get("event") == event]
        assert not event or told[-1]["certificate_sha256"] == found, "nothing is done without its record"
        return found


@pytest.mark.parametrize(
    "stride",
    [
        pytest.param(
            1,
            id="each-step",
            marks=[
                pytest.mark.exhaustive,
                pytest.mark.fault(
                    part="site",
                    what="kill -9 of a certificate's renewal",
                    where="each step that lasts",
                    promised="one working identity at any moment; the next run finishes it",
                ),
            ],
        ),
        pytest.param(5, id="every-fifth"),
    ],
)
def test_a_renewal(server: Server, site: Site, stride: int) -> None:
    grow_old(server, site, days=61)
    old = in_use(site)
    switched = []

    def renewed() -> None:
        with open_site(site.config) as opened:
            renew.renew(opened)

    for _ in killed_at_each_step(site, lambda: renewed, stride):
        switched.append(identity.certificate(files_of(site)).sha256 != old)
        in_use(site, "certificate renewed" if switched[-1] else "")
        with open_site(site.config) as opened:
            renew.renew_if_due(opened)
            assert identity.certificate(opened.files).days_left() > 89
            assert versions.pending(opened.files) is None
    assert switched == sorted(switched)
    assert set(switched) == {True, False}


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="site",
    what="kill -9 of an enrolment",
    where="every other step that lasts",
    promised="no identity or a working one; enrolling again finishes it",
)
def test_an_enrolment(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "new")
    site.init()
    invitations: list[Invitation] = []

    def enrolled() -> None:
        with open_site(site.config) as opened:
            enroll.enroll(opened, invitations[-1])

    def begin() -> Callable[[], None]:
        invitations.append(Invitation.decode(server.invite("new")))
        return enrolled

    for _ in killed_at_each_step(site, begin, stride=2):
        try:
            in_use(site, "enrolled")
        except NotAuthorised:
            assert not (site.state / "identity" / "current").exists()
        enrolled()
        with open_site(site.config) as opened:
            assert versions.pending(opened.files) is None
