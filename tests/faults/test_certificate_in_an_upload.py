"""A site's certificate ends while its update goes up: told, nothing counts; enrolled anew, the same bytes go, once."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.certificates import files_of, grow_old
from support.federation import Server
from support.site import Site

from fedsite.errors import NotAuthorised
from fedsite.jobs.identity import renew
from fedsite.jobs.progress import Progress, Steps
from fedsite.jobs.round import participate
from fedsite.jobs.site import open_site
from fedsite.server.authority.authority import LIFETIME
from fedsite.server.members import enrolment as admissions
from fedsite.server.rounds.reports import round_report
from fedsite.site import identity
from fedsite.wire import transfer

PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600},
}
LIVES = (4, 20, 100)
"""How many seconds a certificate lasts: longer, where the machine was too slow to send something in that time."""


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 2000)
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 1000)


def in_the_upload(act: Callable[[], object]) -> Steps:
    """Does something once, when the first bytes of the update are on their way."""
    left = [act]

    @contextmanager
    def step(description: str) -> Iterator[Progress]:
        def progress(done: int, total: int, note: str = "") -> None:
            if description == "Uploading" and left:
                left.pop()()

        yield progress

    return step


def take_part(site: Site, step: Steps) -> str:
    with open_site(site.config) as opened:
        return participate.take_part(opened, step).outcome


def of_round(site: Site, number: int) -> dict[str, str]:
    """The digests that the ledger's records of a round name, by their kind, each of which is there once."""
    records = [body for body in site.ledger() if body.get("round") == number]
    found = {body["kind"]: body.get("payload_sha256", "") for body in records}
    assert len(found) == len(records)
    return found


def assert_the_same_bytes_go_up_once(server: Server, site: Site, number: int) -> None:
    released = of_round(site, number)["released"]
    assert "acknowledged" not in of_round(site, number)
    assert round_report(server.federation, number)["took_part"] == []
    site.enroll(server.invite("site-a"))
    assert take_part(site, in_the_upload(bool)) == "uploaded"
    assert of_round(site, number).keys() == {"reserved", "released", "acknowledged"}
    assert [one["update_sha256"] for one in round_report(server.federation, number)["took_part"]] == [released]


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="time",
    what="a site's certificate expires in the middle of its upload",
    where="after the first block; its renewals have failed for a month",
    promised="told, with the way back (exit 77), nothing counts; enrolled anew, the same bytes go up, once",
)
@pytest.mark.parametrize("line", ["the same", "a new one"])
def test_it_expires(server: Server, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(renew, "renew_if_due", lambda site: None)

    def until_it_ends() -> None:
        time.sleep(max(0.0, identity.certificate(files_of(site)).days_left() * 86_400) + 1.0)
        if line == "a new one":
            server.stop(signal.SIGKILL)
            server.start()

    site.configure(network={"patience_seconds": 2})
    for seconds in LIVES:
        number = server.open_round(tmp_path, **PLAN)
        grow_old(server, site, days=LIFETIME.days - seconds / 86_400)
        with pytest.raises(NotAuthorised, match=r"expired|not once this site shows its certificate") as error:
            take_part(site, in_the_upload(until_it_ends))
        if site.round_state(number)[0] == "uploading":
            break
    assert error.value.mend == "Ask the coordinator for a new invitation, then: fedsite enroll --invitation FILE"
    assert identity.certificate(files_of(site)).not_after < datetime.now(UTC)
    assert_the_same_bytes_go_up_once(server, site, number)


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="time",
    what="a site is revoked in the middle of its upload, and invited again",
    where="after the first block",
    promised="told (exit 77), nothing counts; enrolled anew, the same bytes go up, once",
)
def test_it_is_revoked(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **PLAN)
    with pytest.raises(NotAuthorised, match="revoked"):
        take_part(site, in_the_upload(lambda: admissions.revoke(server.federation, "site-a")))
    assert_the_same_bytes_go_up_once(server, site, number)
