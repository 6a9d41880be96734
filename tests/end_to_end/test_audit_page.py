"""The page for an ethics board, by the installed command, in a real browser."""

from dataclasses import replace
from pathlib import Path

import pytest
from example_site import make_site
from support.browser import Browser
from support.site import Site

from fedsite.jobs.audit import ethics_report
from fedsite.jobs.pages import writing
from fedsite.jobs.site import open_site
from fedsite.privacy.statement import guarantee
from fedsite.site.state import State

ROUNDS = 12
REQUEST = {"seconds": 0.1, "sent": 10, "received": 1_000_000}


def live(state: State) -> None:
    """What some months bring: requests, refusals, a person's decisions."""
    for number in range(10):
        status = 200 if number % 5 else 0
        state.audit("request", method="POST", path="/v1/participation", status=status, ahead=number - 5, **REQUEST)
    state.audit("request", method="PATCH", path=f"/v1/uploads/{'0' * 32}", status=200, ahead=None, **REQUEST)
    state.audit("request", method="GET", path="/v1/updates?after=3", status=200, ahead=0, **REQUEST)
    state.audit("refused", code="policy-refused", message="The plan's task is <b>brain-tumour-mr</b>. " * 5)
    state.audit("agreement accepted", by="Dr. <Ada> Tester", sha256="ab" * 32)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    make_site(folder, rounds=ROUNDS, cases=2)
    site = Site(folder)
    with site.open_state() as state:
        live(state)
    return site


@pytest.fixture(scope="module")
def page(site: Site) -> Path:
    path = site.home / "page.html"
    assert site.ok("audit", "export", "--report", str(path))["data"] == {"report": str(path)}
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def test_it_says_what_the_records_say(site: Site) -> None:
    with open_site(site.config) as opened:
        account = ethics_report.account_of(opened)
        spent, terms = opened.ledger.spent(), opened.ledger.terms
    assert [one.round for one in account.releases] == list(range(1, ROUNDS + 1))
    assert (account.left, account.bytes_left) == (ROUNDS, ROUNDS)
    assert account.guarantee == guarantee(spent.epsilon, terms.delta)
    assert {name: (one.requests, one.failed, one.sent) for name, one in account.errands.items()} == {
        "sent an update": (1, 0, 10),
        "asked whether something is due": (10, 2, 100),
        "asked for plans, tickets, receipts and names": (1, 0, 10),
    }
    assert account.clock == (11, 5)
    assert [one.details for one in account.refusals] == ["policy-refused"]
    decided = {one.what: one.details for one in account.decisions}
    assert decided["agreement accepted"] == f"by Dr. <Ada> Tester, sha256 {'ab' * 32}"
    assert "tasks: stroke-dwi" in decided["policy"]
    assert int(account.keep_until[:4]) == int(account.until[:4]) + 6


def test_what_left_without_noise_is_said(site: Site, tmp_path: Path) -> None:
    with open_site(site.config) as opened:
        account = ethics_report.account_of(opened)
    spent = replace(account.spent, epsilon=None)
    account = replace(account, spent=spent, guarantee=guarantee(None, account.terms.delta))
    writing.write(tmp_path / "page.html", "audit.html.j2", account=account)
    text = (tmp_path / "page.html").read_text()
    assert "At least one update left without noise" in text
    assert "Not private: something left this site without noise" in text
    assert "then noised" not in text


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_fits(tab: Browser, page: Path, width: int, scheme: str) -> None:
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    assert tab.ask("document.documentElement.scrollWidth") == width, "nothing may stick out to the right"
    assert tab.ask("document.querySelector('h1').innerText") == "What left st-example"
    assert tab.ask("document.querySelectorAll('table')[0].querySelectorAll('tbody tr').length") == ROUNDS
    assert tab.ask("document.querySelector('.tile b').innerText") == str(ROUNDS)
    assert tab.ask("document.querySelectorAll('b b, td b').length") == 0, "what a server has sent is text"
    for x, y, wide, high in tab.ask(
        "[...document.querySelectorAll('.plot path')].map(one => one.getBBox()).map(b => [b.x, b.y, b.width, b.height])"
    ):
        assert -1 <= x <= x + wide <= 1001
        assert -1 <= y <= y + high <= 301
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(page.as_uri()[:60])] == []
    assert [pair for pair in tab.contrasts() if pair[0] < 4.5] == []


def test_it_prints(tab: Browser, page: Path) -> None:
    tab.like(prefers_color_scheme="dark", media="print")
    tab.open(page, 1280)
    assert tab.seen().getpixel((0, 0)) == (255, 255, 255)
    assert tab.printed().startswith(b"%PDF")


def test_a_site_that_has_met_nobody(tab: Browser, tmp_path: Path) -> None:
    site = Site(tmp_path / "new")
    site.init()
    page = tmp_path / "page.html"
    site.ok("audit", "export", "--report", str(page))
    tab.open(page, 1280)
    text = tab.ask("document.body.innerText")
    assert "What left this site" in text
    assert "Nothing has left." in text
    assert tab.complaints == []
