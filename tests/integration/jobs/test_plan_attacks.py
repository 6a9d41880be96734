"""The attack table for plans and tickets: whatever a hostile server offers is refused, and the site stays as it was."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.attacks import cases
from support.federation import running
from support.impostor import impostor
from support.offers import Liar, Lie, two_of_three
from support.plan_attacks import ATTACKS
from support.site import Site

from fedsite.errors import FedsiteError, OutsideHours
from fedsite.jobs.progress import Progress
from fedsite.jobs.round import participate
from fedsite.jobs.site import open_site

PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600},
}
HOUR = timedelta(hours=1)
FOLDERS = ("identity", "outbox", "checkpoints", "models", "egress", "kept")


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Liar]]:
    """A site that took part in rounds 1 and 3 of an honest server, whose place a liar has taken then."""
    folder = tmp_path_factory.mktemp("attacks")
    with running(folder / "server") as server:
        site = Site(folder / "site")
        site.init()
        site.enroll(server.invite("north"))
        for number in (1, 2, 3):
            assert server.open_round(folder, plan=f"plan-{number}", **PLAN) == number
            if number != 2:
                site.ok("train-round")
        server.stop()
        with impostor(server.folder, server.port) as lying:
            yield site, Liar.after(server, lying)


def remembered(site: Site) -> dict[str, Any]:
    """All that a site keeps but its audit, which grows."""
    files = {path: path for folder in FOLDERS for path in sorted((site.state / folder).rglob("*")) if path.is_file()}
    with site.open_state() as state:
        return {
            "rounds": state.rounds("test-federation"),
            "ledger": [record.hash for record in state.records("ledger")],
            "files": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        }


def refusals(site: Site) -> list[dict[str, Any]]:
    with site.open_state() as state:
        return [record.body for record in state.records("audit") if record.body["event"] == "refused"]


@contextmanager
def quietly(_step: str) -> Iterator[Progress]:
    """A step that nobody watches."""
    yield lambda done, total, note="": None


@pytest.mark.parametrize("attack", cases(ATTACKS))
def test_a_hostile_offer_is_refused_and_changes_nothing(met: tuple[Site, Liar], attack: Lie) -> None:
    site, liar = met
    attack.told(liar)
    before, known = remembered(site), refusals(site)

    with pytest.raises(FedsiteError, match=re.escape(attack.complaint)) as refused:
        _take_part(site, liar, strict="one-of-two" in attack.id)

    assert refused.value.exit_code == 76
    assert remembered(site) == before, "a refused offer leaves no trace but the audit's"
    new = refusals(site)[len(known) :]
    assert [one["code"] for one in new] == [refused.value.code], "every refusal is audited, once"
    assert attack.complaint in new[0]["message"]
    the_time = {"GET /v1/federation"} if attack.id.endswith("-expired") else set()
    assert set(liar.lying.asked) <= {"GET /v1/updates", "POST /v1/participation", "GET /v1/tickets"} | the_time


def _take_part(site: Site, liar: Liar, strict: bool) -> None:
    with two_of_three(site, liar) if strict else nullcontext(), open_site(site.config) as opened:
        participate.take_part(opened, quietly)


def test_what_the_attacks_are_made_of_is_good(met: tuple[Site, Liar]) -> None:
    """Without its lie each of them would be taken: the site goes on to ask for the model, which is not there."""
    site, liar = met
    plan = liar.plan(max_update_norm=999_999.0)
    between = liar.ticket(plan, 4)
    liar.offers(plan, liar.ticket(plan, 5, between), [between])
    before = remembered(site)
    answer = site.run("train-round")
    assert any(asked.startswith("GET /v1/models/") for asked in liar.lying.asked), answer
    after = remembered(site)
    assert [one.round for one in after["rounds"]] == [1, 3, 5]
    assert after["ledger"] == before["ledger"]


@pytest.mark.parametrize("name", ["equivocation-by-plan", "plan-names-code"])
def test_the_command_says_so(met: tuple[Site, Liar], name: str) -> None:
    site, liar = met
    attack = next(one for one in ATTACKS if one.id == name)
    attack.told(liar)
    answer = site.run("train-round")
    assert answer.code == 76
    assert attack.complaint in answer.json["error"]["message"]
    assert answer.json["outcome"] == "failed"
    assert answer.json["error"]["mend"]


def test_a_round_that_only_a_wrong_clock_has_ended(met: tuple[Site, Liar]) -> None:
    """Refused all the same, and written down; but it is the clock that is to be mended, not the coordinator asked."""
    site, liar = met
    next(one for one in ATTACKS if one.id == "ticket-expired").told(liar)
    before, known = remembered(site), refusals(site)
    liar.lying.ahead_seconds = -86_400.0 * 61
    try:
        answer = site.run("train-round")
    finally:
        liar.lying.ahead_seconds = 0.0
    assert answer.code == 77
    assert "ticket has expired. This machine's clock is 6" in answer.json["error"]["message"]
    assert "NTP" in answer.json["error"]["mend"]
    assert remembered(site) == before
    assert [one["code"] for one in refusals(site)[len(known) :]] == ["not-authorised"]


@pytest.mark.parametrize("off_by", [12, -12])
def test_hours_must_be_open_by_the_servers_clock_too(met: tuple[Site, Liar], off_by: int) -> None:
    """This machine's clock may be half a day wrong; a server that lies about the time can only keep the site away."""
    site, liar = met
    here = datetime.now(UTC)
    site.configure(policy={"hours": [f"{here - HOUR:%H}:00-{here + 2 * HOUR:%H}:00"], "time_zone": "UTC"})
    liar.offers()
    liar.lying.ahead_seconds = off_by * 3600.0
    before = remembered(site)
    try:
        with open_site(site.config) as opened, pytest.raises(OutsideHours):
            participate.take_part(opened, quietly)
        assert liar.lying.asked == ["GET /v1/federation"], "it is not asked whether anything is due"
        assert remembered(site) == before
        site.configure(policy={"hours": [f"{here + 11 * HOUR:%H}:00-{here + 14 * HOUR:%H}:00"]})
        liar.offers()
        with open_site(site.config) as opened, pytest.raises(OutsideHours):
            participate.take_part(opened, quietly)
        assert liar.lying.asked == [], "nor what time it is, where the hours are closed by this machine's clock"
    finally:
        liar.lying.ahead_seconds = 0.0
        site.configure(policy={"hours": [], "time_zone": None})
