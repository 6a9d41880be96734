"""`fedsite privacy attack` by the installed command, and its page in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser
from support.federation import plan_file
from support.site import Site, prepare_blobs

from fedsite.cli.attack import _text
from fedsite.jobs.privacy import attack
from fedsite.jobs.privacy.attack import Found, Order
from fedsite.jobs.progress import silent_steps
from fedsite.jobs.site import open_site

PLAN = {
    "privacy": {"mechanism": "dp-sgd", "clip_norm": 1.0, "noise_multiplier": 2.0, "batch_patients": 20},
    "local": {"steps": 10, "patch_voxels": [16, 16, 16]},
}
FEW = {"CANARIES": 400, "GAMES": 40, "ITERATIONS": 10, "YARDSTICKS": 2}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """What a short attack found at a site that has met no federation yet."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.set_up()
    prepare_blobs(site, patients=4, size=24)
    with pytest.MonkeyPatch.context() as patch, open_site(site.config) as opened:
        for name, value in FEW.items():
            patch.setattr(attack, name, value)
        order = Order(plan_file(site.home, **PLAN))
        yield attack.attack_at_home(opened, order, silent_steps)


def test_the_installed_command_needs_prepared_data(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.init()
    answer = site.run("privacy", "attack", "--plan", str(plan_file(tmp_path, **PLAN)))
    assert answer.code == 66
    assert answer.json["command"] == "privacy attack"


def test_what_is_said(found: Found) -> None:
    said = _text(found)
    assert found.report.stat().st_mode & 0o777 == 0o600
    assert re.search(r"Stated +epsilon [\d.]+ per patient \(add or remove one\), delta 1e-06, for one round", said)
    assert re.search(r"Audit +at least epsilon [\d.]+ per patient \(add or remove one\), delta 1e-06", said)
    assert re.search(r"Patch +correlation -?0\.\d+ raw", said)
    assert "proves nothing" in said
    assert str(found.report) in said


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_fits_and_shows_its_pictures(tab: Browser, found: Found, width: int, scheme: str) -> None:
    page = found.report
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    assert tab.ask("document.documentElement.scrollWidth") == width, "nothing may stick out to the right"
    decoded = "Promise.all([...document.images].map(one => one.decode().then(() => one.naturalWidth)))"
    assert tab.ask(decoded) == [48] * 4, "twelve slices, four a row"
    assert tab.ask("[...document.querySelectorAll('.chart h3')].map(one => one.innerText)") == [
        "Evidence of taking part",
        "Who is recognised",
    ]
    boxes = (
        "[...document.querySelectorAll('.plot path')].map(one => one.getBBox()).map(b => [b.x, b.y, b.width, b.height])"
    )
    for x, y, wide, high in tab.ask(boxes):
        assert -1 <= x <= x + wide <= 1001
        assert -1 <= y <= y + high <= 301
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("data:image/png", page.as_uri()[:60]))] == []
    assert [pair for pair in tab.contrasts() if pair[0] < 4.5] == []


def test_it_prints(tab: Browser, found: Found) -> None:
    tab.like(prefers_color_scheme="dark", media="print")
    tab.open(found.report, 1280)
    assert tab.seen().getpixel((0, 0)) == (255, 255, 255)
    assert tab.printed().startswith(b"%PDF")
