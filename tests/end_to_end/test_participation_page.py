"""The page of a site's participation, by the installed command, in a real browser."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from example_site import FEDERATION, make_site
from support.browser import Browser
from support.site import Site

from fedsite.jobs import report
from fedsite.jobs.site import open_site
from fedsite.jobs.unattended import run_log, streaks
from fedsite.jobs.unattended.streaks import Streak

ROUNDS = 5
NOW = datetime.now(UTC).isoformat(timespec="seconds")
FAILING = Streak("unreachable", 69, "No <b>progress</b> for 120 seconds. " * 4, "Ask the operators.", NOW, NOW, 4)
REQUEST = {"method": "PATCH", "path": "/v1/uploads/x", "status": 200, "ahead": 0, "seconds": 0.1, "received": 0}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    make_site(folder, rounds=ROUNDS, cases=5)
    site = Site(folder)
    with site.open_state() as state:
        for number in range(1, ROUNDS + 1):
            here = state.round(FEDERATION, number)
            assert here is not None
            trained = {"seconds": 1800.0, "steps": 4, "loss": [1.0], "gpus": number % 2 * 2}
            state.put_round(
                FEDERATION, number, "late" if number == 3 else here.state, here.body | {"training": trained}
            )
            for kind, after, dice in (("global", number - 1, 0.5), ("trained", number, 0.625)):
                body = {"kind": kind, "round": after, "mean_dice": dice + number / 100, "low": 0.4, "high": 0.8}
                state.put_evaluation(f"{kind}-{number}", body | {"seconds": 3.0, "measures": []})
            state.audit("request", sent=1_000_000, **REQUEST)
    for code in ("", "", "unreachable"):
        run_log.write(
            site.state, {"time": NOW, "outcome": "failed" if code else "uploaded", "code": code, "seconds": 3.0}
        )
    streaks.save(site.state, FAILING)
    return site


@pytest.fixture(scope="module")
def page(site: Site) -> Path:
    answer = site.ok("report")
    assert answer["outcome"] == "written"
    path = Path(answer["data"]["report"])
    assert path == site.state / "reports" / "participation.html"
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def test_it_says_what_the_records_say(site: Site) -> None:
    with open_site(site.config) as opened:
        found = report.participation_of(opened)
        spent = opened.ledger.spent()
    newest, *_, first = found.rounds
    assert [one.number for one in found.rounds] == [5, 4, 3, 2, 1]
    assert newest.before is not None
    assert newest.after is not None
    assert (newest.before.dice, newest.after.dice) == (0.55, 0.675)
    assert newest.epsilon == pytest.approx(spent.epsilon_noised)
    assert first.epsilon is not None
    assert first.epsilon < newest.epsilon
    assert (found.taken_part, found.gpu_hours, found.cpu_hours) == (ROUNDS - 1, 3 * 0.5 * 2, 2 * 0.5)
    assert found.bytes_sent == ROUNDS * 1_000_000
    assert found.runs == (("uploaded", 2), ("failed (unreachable)", 1))
    assert [one["message"] for one in found.status["warnings"]] == [f"{FAILING.message} {FAILING.how_often}"]
    assert asdict(newest)["gpus"] == 2


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_fits(tab: Browser, page: Path, width: int, scheme: str) -> None:
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    assert tab.ask("document.documentElement.scrollWidth") == width, "nothing may stick out to the right"
    assert tab.ask("document.querySelector('h1').innerText") == "st-example in example"
    text = tab.ask("document.body.innerText")
    for words in ("stays here", "This was the 4th time in a row", "5.0 MB", "3.0\nGPU hours of training; 1.0 hours"):
        assert words in text, words
    assert tab.ask("document.querySelectorAll('.measures tbody tr').length") == ROUNDS
    assert tab.ask("document.querySelectorAll('.chart').length") == 3
    assert tab.ask("document.querySelectorAll('b b').length") == 0, "what a server has sent is text"
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(page.as_uri()[:60])] == []
    assert [pair for pair in tab.contrasts() if pair[0] < 4.5] == []


def test_a_site_that_has_met_nobody(tab: Browser, tmp_path: Path) -> None:
    site = Site(tmp_path / "new")
    site.init()
    site.ok("report", "--output", str(tmp_path / "page.html"))
    tab.open(tmp_path / "page.html", 1280)
    text = tab.ask("document.body.innerText")
    assert "This site has met no round yet." in text
    assert "none prepared" in text
    assert tab.complaints == []
