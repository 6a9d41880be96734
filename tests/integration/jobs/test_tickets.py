"""Two sites compare what the server has shown them: nobody else can notice that it shows each one its own truth."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.attacks import Attack, cases
from support.federation import Server, running
from support.impostor import impostor
from support.offers import STRANGER, Liar
from support.site import Site

from fedsite.errors import DataNotFit, ServerBrokeProtocol, SourceMissing
from fedsite.jobs.audit import tickets
from fedsite.jobs.progress import Progress
from fedsite.jobs.round import participate
from fedsite.jobs.site import open_site

PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600},
}


@dataclass(frozen=True)
class Two:
    """Sites north (rounds 1 and 3) and south (round 2) of one federation, and what its server could go on to say."""

    north: Site
    south: Site
    liar: Liar


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two")
    with running(folder / "server") as server:
        north, south = (_site(server, folder, name) for name in ("north", "south"))
        for number, site in enumerate((north, south, north), start=1):
            server.open_round(folder, **PLAN)
            assert site.ok("train-round")["data"]["round"] == number
        server.stop()
        with impostor(server.folder, server.port) as lying:
            yield Two(north, south, Liar.after(server, lying))


def _site(server: Server, folder: Path, name: str) -> Site:
    site = Site(folder / name)
    site.init()
    site.enroll(server.invite(name))
    return site


@contextmanager
def quietly(_step: str) -> Iterator[Progress]:
    """A step that nobody watches."""
    yield lambda done, total, note="": None


def audited(site: Site) -> dict[str, Any]:
    """The audit's last record."""
    with site.open_state() as state:
        last = state.last("audit")
        assert last is not None
        return last.body


def test_sites_that_met_different_rounds_agree_by_the_links_between_them(two: Two, tmp_path: Path) -> None:
    """South knows round 2 by its ticket, north by the ticket of round 3, which names it."""
    file = tmp_path / "south.json"
    assert two.south.ok("audit", "tickets", "--out", str(file))["data"]["tickets"] == 1
    found = two.north.ok("audit", "tickets", str(file))
    assert found["outcome"] == "same"
    assert found["data"] == {"other_site": "south", "rounds": [1, 2]}
    assert audited(two.north).items() >= {"event": "tickets compared", "other_site": "south", "rounds": 2}.items()
    shown = json.loads(file.read_text())
    assert set(shown) == {"federation", "site", "plans", "tickets"}, "nothing of what the site has sent"


ATTACKS = (
    Attack(
        "equivocation-across-sites",
        "each of two sites is shown another model for one round, each with a good ticket",
        "neither can notice alone; fedsite audit tickets of either ends with 76",
    ),
)


@pytest.mark.parametrize("attack", cases(ATTACKS))
def test_a_server_that_shows_each_site_another_round_is_found_out(two: Two, tmp_path: Path, attack: Attack) -> None:
    plan = two.liar.plan()
    for site, model in ((two.north, "a" * 64), (two.south, "b" * 64)):
        between = [two.liar.past[3]]
        two.liar.offers(plan, two.liar.ticket(plan, 4, model_sha256=model), between)
        # The model is not there; but neither can notice by itself that there are two.
        with open_site(site.config) as here, pytest.raises(ServerBrokeProtocol, match="404"):
            participate.take_part(here, quietly)
        assert site.round_state(4)[1]["ticket_sha256"]
    file = tmp_path / "south.json"
    two.south.ok("audit", "tickets", "--out", str(file))

    answer = two.north.run("audit", "tickets", str(file))

    assert answer.code == 76, attack
    assert answer.json["error"]["message"] == (
        "The server has shown two different tickets for round 4, one to site south."
    )
    refused = audited(two.north)
    assert (refused["event"], refused["code"]) == ("refused", "protocol-broken")
    with two.south.open_state() as state:
        assert refused["sha256"] == state.rounds("test-federation")[-1].body["ticket_sha256"]


def test_a_file_that_proves_nothing_changes_nothing(two: Two, tmp_path: Path) -> None:
    """A stranger could else make two honest sites believe that their server lies."""
    file = tmp_path / "south.json"
    two.south.ok("audit", "tickets", "--out", str(file))
    good, before = json.loads(file.read_text()), audited(two.north)
    forged = two.liar.ticket(two.liar.last_plan, 1, model_sha256="c" * 64, keys=[STRANGER])
    own_plan = two.liar.plan(keys=[STRANGER])
    own_ticket = two.liar.ticket(own_plan, 1, model_sha256="c" * 64)
    lies = [
        {"tickets": [*good["tickets"], forged.model_dump()]},
        {"plans": [own_plan.model_dump()], "tickets": [own_ticket.model_dump()]},
        {"plans": []},
        {"federation": "others"},
        {"more": 1},
        {"tickets": good["tickets"] * 1001},
    ]
    contents = [json.dumps(good | lie).encode() for lie in lies]
    with open_site(two.north.config) as north:
        for content in (*contents, b"", b"[" * tickets.LONGEST_FILE, b" " * (tickets.LONGEST_FILE + 1)):
            file.write_bytes(content)
            with pytest.raises(DataNotFit):
                tickets.compare(north, file)
        with pytest.raises(SourceMissing):
            tickets.compare(north, tmp_path / "absent")
    assert two.north.run("audit", "tickets").code == 2
    assert audited(two.north) == before
