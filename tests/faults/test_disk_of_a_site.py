"""A site's process that dies at any step of a round that lasts, or whose disk fails there; then it is run again.

Promised (laws 1 and 2): one update at the server, one charge in the ledger, the same bytes once released; the server
never has what the ledger does not know; nothing half done is left. What runs is what `fedsite train-round` calls, in a
process that is forked; test_killed_round.py runs the command.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.faulty import Fault, forked
from support.federation import Server
from support.site import Site

from fedsite.errors import CannotWrite, Unreachable
from fedsite.jobs.progress import Progress
from fedsite.jobs.round import participate
from fedsite.jobs.site import open_site
from fedsite.server.rounds import reports

PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600},
}
QUICK = {"power-cut": 66, "full": 42}


names = (f"site-{number}" for number in count())


@pytest.fixture
def new_site(server: Server, tmp_path: Path) -> Site:
    """One without a past: what a run costs grows with the rounds that a site has seen."""
    site = Site(tmp_path / "site")
    site.init()
    site.enroll(server.invite(next(names)))
    return site


def take_part(site: Site) -> str:
    with open_site(site.config) as opened:
        return participate.take_part(opened, quietly).outcome


@contextmanager
def quietly(_step: str) -> Iterator[Progress]:
    """A step that nobody watches."""
    yield lambda done, total, note="": None


def of_round(site: Site, number: int) -> dict[str, list[dict[str, Any]]]:
    """What the ledger says of a round, by kind."""
    kinds: dict[str, list[dict[str, Any]]] = {"reserved": [], "released": [], "acknowledged": []}
    for body in site.ledger():
        if body.get("round") == number:
            kinds[body["kind"]].append(body)
    return kinds


def had(server: Server, number: int) -> list[str]:
    """The digests of what the server has been sent, or been told of, for a round."""
    report = reports.round_report(server.federation, number)
    assert not report["late"]
    return [one["update_sha256"] for one in report["took_part"]]


def strike(server: Server, site: Site, scratch: Path, fault: Fault) -> str:
    """A round under a fault, and run again to its end; the step that was hit, if there was such a step."""
    number = server.open_round(scratch, **PLAN)
    code = forked(fault, lambda: take_part(site))
    told = Path(fault.told)
    if not told.exists():
        assert code == 0
        return ""
    hit = told.read_text()
    fails = fault.what in ("eio", "full")
    assert code in ((0, CannotWrite.exit_code, Unreachable.exit_code) if fails else (-9,)), hit

    before = of_round(site, number)
    sent = had(server, number)
    released = [body["payload_sha256"] for body in before["released"]]
    assert sent in ([], released), f"{hit}: the server has what the ledger does not know"
    assert len(before["reserved"]) <= 1, hit

    if take_part(site) == "nothing-to-do":
        assert before["acknowledged"], hit
    after = of_round(site, number)
    assert [len(records) for records in after.values()] == [1, 1, 1], hit
    assert had(server, number) == [after["released"][0]["payload_sha256"]], hit
    assert not released or released == had(server, number), f"{hit}: other bytes than those that were released"
    assert site.round_state(number)[0] == "acknowledged", hit
    with site.open_state() as state:
        state.verify()
    assert not list((site.state / "checkpoints").iterdir()), f"{hit}: trained weights outlive their release"
    assert {path.name for path in (site.state / "outbox").iterdir()} <= {f"round-{number}.safetensors"}, hit
    assert not list(site.state.rglob("*.tmp")), hit
    assert not list(site.state.rglob("*.part")), hit
    return hit


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("what", "least"),
    [
        pytest.param(
            "kill-before",
            66,
            id="kill-before",
            marks=pytest.mark.fault(
                part="site",
                what="kill -9 of a site's round before the N-th step, for all N",
                where="each file, write, fsync, rename, removal, commit and block that is sent",
                promised="run again, the round ends exactly once; the server never has what the ledger does not know",
            ),
        ),
        pytest.param(
            "kill-after",
            66,
            id="kill-after",
            marks=pytest.mark.fault(
                part="site",
                what="kill -9 of a site's round after the N-th step, for all N",
                where="the same; what was sent may have been answered, unheard",
                promised="run again, the round ends exactly once; the server never has what the ledger does not know",
            ),
        ),
        pytest.param(
            "kill-within",
            25,
            id="kill-within",
            marks=pytest.mark.fault(
                part="site",
                what="kill -9 of a site's round in the middle of the N-th write, for all N",
                where="half of what is written, or sent",
                promised="run again, the round ends exactly once; the server never has what the ledger does not know",
            ),
        ),
        pytest.param(
            "power-cut",
            66,
            id="power-cut",
            marks=pytest.mark.fault(
                part="site",
                what="power cut, or reboot, at the N-th step of a site's round, for all N",
                where="what no fsync had made durable is lost",
                promised="run again, the round ends exactly once; the server never has what the ledger does not know",
            ),
        ),
        pytest.param(
            "eio",
            25,
            id="eio",
            marks=pytest.mark.fault(
                part="site",
                what="EIO at a site",
                where="each fsync, each commit",
                promised="told (exit 73); run again, the round ends exactly once",
            ),
        ),
        pytest.param(
            "full",
            42,
            id="full",
            marks=pytest.mark.fault(
                part="site",
                what="disk full at a site",
                where="each file, write, folder and commit of a round",
                promised="told (exit 73); run again, the round ends exactly once",
            ),
        ),
    ],
)
def test_a_fault_at_each_step(server: Server, new_site: Site, tmp_path: Path, what: str, least: int) -> None:
    for nth in count(1):
        if not strike(server, new_site, tmp_path, Fault(what, nth, told=str(tmp_path / f"{nth}.told"))):
            assert nth > least
            return


@pytest.mark.parametrize(("what", "least"), QUICK.items())
def test_a_fault_at_some_steps(server: Server, site: Site, tmp_path: Path, what: str, least: int) -> None:
    for nth in range(5, least, 12):
        assert strike(server, site, tmp_path, Fault(what, nth, told=str(tmp_path / f"{nth}.told")))
