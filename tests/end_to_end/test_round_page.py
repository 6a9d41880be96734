"""The page of a round, by the installed command, in a real browser."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.browser import Browser
from support.federation import Server, draft, make, model_file, tensors, update_file

from fedsite.errors import UsageError
from fedsite.files import sha256_of
from fedsite.jobs.pages import round_page
from fedsite.server.exchange import participation, uploads
from fedsite.server.federation import Federation
from fedsite.server.members import enrolment
from fedsite.server.problems import Refused
from fedsite.server.rounds import reports, rounds, series
from fedsite.wire.enrolment import new_key, signing_request
from fedsite.wire.messages import ParticipationRequest, Refusal, utc_now

HONEST = ("st-agnes", "st-bride", "st-clare", "st-david", "st-elmo")
SLOW, SHY, ABSENT, MALLORY, HEAVY = "st-francis", "st-george", "st-hilda", "mallory", "heavy"
ASK = ParticipationRequest(protocol=1, ledger_sequence=0)
RULES = {
    "screen": {"rule": "drop"},
    "rounds": {"quorum": 3, "deadline_seconds": 6 * 3600},
    "privacy": {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0},
    "max_update_norm": 100.0,
}


class Play:
    """A federation in this process, and the time in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, utc_now() - timedelta(days=1)
        self.federation: Federation = make(folder / "federation", self.clock)

    def clock(self) -> datetime:
        return self.now

    def enrol(self, site: str) -> None:
        invitation = enrolment.invite(self.federation, site, timedelta(hours=1), self.federation.url)
        request = signing_request(new_key(), site).public_bytes(Encoding.DER)
        assert enrolment.enrol(self.federation, site, invitation.secret, request) is not None

    def ask(self, site: str) -> None:
        self.now += timedelta(minutes=7)
        participation.participate(self.federation, site, ASK)

    def deliver(self, site: str, number: int, values: dict[str, np.ndarray]) -> None:
        self.now += timedelta(minutes=11)
        update = update_file(self.folder / "update", values)
        said = uploads.Announcement(sha256_of(update), update.stat().st_size, number, None)
        upload = uploads.announce(self.federation, site, number, said)
        part = uploads.Part(self.federation, upload, 0)
        part.write(update.read_bytes())
        part.close()
        self.now += timedelta(minutes=2)
        uploads.conclude(self.federation, site, upload.id)


def update(site: str) -> dict[str, np.ndarray]:
    """What the honest have in common, and something of each one's own."""
    common, own = tensors(100, scale=0.01), tensors(HONEST.index(site), scale=0.005)
    return {name: values + own[name] for name, values in common.items()}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Two rounds: in the first everything happens that can happen, the second has just begun."""
    play = Play(tmp_path_factory.mktemp("play"))
    model = model_file(play.folder / "model.safetensors")
    for site in (*HONEST, SLOW, SHY, ABSENT, MALLORY, HEAVY):
        play.enrol(site)
    number = series.open_series(play.federation, draft(play.folder, **RULES), model, 2).number
    for site in (*HONEST, SLOW, SHY, MALLORY, HEAVY):
        play.ask(site)
    participation.refuse(play.federation, SHY, number, Refusal(reason="budget"))
    for site in HONEST:
        play.deliver(site, number, update(site))
    play.deliver(MALLORY, number, {name: -values for name, values in update(HONEST[0]).items()})
    with pytest.raises(Refused):
        play.deliver(HEAVY, number, tensors(9, scale=1000.0))
    play.now += timedelta(hours=4)
    rounds.advance(play.federation)
    assert reports.round_report(play.federation, number)["status"] == "aggregated"
    yield play
    play.federation.database.close()


@pytest.fixture(scope="module")
def page(play: Play) -> Path:
    path = play.folder / "round.html"
    done = Server(play.federation.folder).run("server", "round", "report", "1", "--output", str(path))
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def test_everybody_is_on_it_with_what_became_of_them(play: Play) -> None:
    report = reports.round_report(play.federation, 1)
    account = round_page.account_of(report, reports.model_report(play.federation, report["model_sha256"])["line"])
    outcomes = {one.site: one.outcome for one in account.sites}
    assert outcomes == dict.fromkeys(HONEST, "counts") | {
        SLOW: "dropped out", SHY: "declined", ABSENT: "absent", MALLORY: "left out", HEAVY: "not admitted",
    }  # fmt: skip
    (shy,) = [one for one in account.sites if one.site == SHY]
    assert (shy.reason, shy.bytes) == ("budget", None)
    assert account.dropped == 4
    assert [one.site for one in account.screened if one.findings] == [MALLORY]
    assert account.bytes == sum(one["bytes"] for one in (*report["took_part"], *report["left_out"]))
    standing = {
        one.site: (one.contributions, one.refusals, one.rejected) for one in enrolment.standings(play.federation)
    }
    assert standing == dict.fromkeys((*HONEST, MALLORY), (1, 0, 0)) | {
        SHY: (0, 1, 0), HEAVY: (0, 0, 1), SLOW: (0, 0, 0), ABSENT: (0, 0, 0),
    }  # fmt: skip
    first = account.sites[0]
    waited = datetime.fromisoformat(first.received) - datetime.fromisoformat(first.asked)
    whole = datetime.fromisoformat(report["closed"]) - datetime.fromisoformat(report["opened"])
    assert first.width == pytest.approx(100 * (waited / whole), abs=0.01)
    assert all(0 <= one.begin <= one.begin + one.width <= 100 for one in account.sites)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_fits(tab: Browser, page: Path, width: int, scheme: str) -> None:
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    assert tab.ask("document.documentElement.scrollWidth") == width, "nothing may stick out to the right"
    assert tab.ask("document.querySelector('h1').innerText") == "Round 1 of test-federation"
    assert tab.ask("document.querySelectorAll('.sites tbody tr').length") == len(HONEST) + 5
    text = tab.ask("document.body.innerText")
    for word in ("aggregated", "budget", MALLORY, ABSENT, "brought by the coordinator", "no loss and no Dice"):
        assert word in text
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(page.as_uri()[:60])] == []
    assert [pair for pair in tab.contrasts() if pair[0] < 4.5] == []


def test_a_round_that_has_just_begun(tab: Browser, play: Play) -> None:
    path = play.folder / "second.html"
    report = reports.round_report(play.federation, 2)
    line = reports.model_report(play.federation, report["model_sha256"])["line"]
    assert [one["round"] for one in line] == [1, None]
    round_page.write(path, report, line)
    tab.open(path, 1280)
    text = tab.ask("document.body.innerText")
    assert "at the latest until" in text
    assert "round 1" in text
    assert tab.complaints == []


def test_a_models_line_goes_back_to_the_first(play: Play) -> None:
    report = reports.round_report(play.federation, 1)
    found = reports.model_report(play.federation, report["result_sha256"])
    assert (found["round"], found["plan"], found["updates"]) == (1, "test-plan", len(HONEST))
    assert [one["sha256"] for one in found["line"]] == [report["result_sha256"], report["model_sha256"]]
    assert found["starts"] == [2]
    assert {one["site"] for one in found["made_in"]["took_part"]} == set(HONEST)
    brought = reports.model_report(play.federation, report["model_sha256"])
    assert (brought["round"], brought["made_in"], brought["starts"]) == (None, None, [1])
    with pytest.raises(UsageError, match="no such model"):
        reports.model_report(play.federation, "0" * 64)
