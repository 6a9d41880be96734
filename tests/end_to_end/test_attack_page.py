"""`fedsite privacy attack` by the installed command, and its page in a real browser."""

import re
from pathlib import Path

import pytest
from support.browser import Browser
from support.federation import plan_file
from support.site import Site, prepare_blobs

PLAN = {
    "privacy": {"mechanism": "dp-sgd", "clip_norm": 1.0, "noise_multiplier": 2.0, "batch_patients": 20},
    "local": {"steps": 10, "patch_voxels": [16, 16, 16]},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The page, and what the command said, at a site that has met no federation yet."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.init()
    prepare_blobs(site, patients=6, size=24)
    answer = site.say("privacy", "attack", "--plan", str(plan_file(site.home, **PLAN)))
    assert answer.code == 0, answer.stderr
    return site.state / "reports" / "attacks.html", answer.stdout


def test_what_the_command_says(found: tuple[Path, str]) -> None:
    page, said = found
    assert page.stat().st_mode & 0o777 == 0o600
    assert re.search(r"Stated +epsilon [\d.]+ per patient \(add or remove one\), delta 1e-06, for one round", said)
    assert re.search(r"Audit +at least epsilon [\d.]+ per patient \(add or remove one\), delta 1e-06", said)
    assert re.search(r"Patch +correlation 0\.9\d+ raw", said)
    assert "proves nothing" in said
    assert str(page) in said


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_fits_and_shows_its_pictures(tab: Browser, found: tuple[Path, str], width: int, scheme: str) -> None:
    page, _ = found
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


def test_it_prints(tab: Browser, found: tuple[Path, str]) -> None:
    tab.like(prefers_color_scheme="dark", media="print")
    tab.open(found[0], 1280)
    assert tab.seen().getpixel((0, 0)) == (255, 255, 255)
    assert tab.printed().startswith(b"%PDF")
