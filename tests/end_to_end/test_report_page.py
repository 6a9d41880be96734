"""The report of a preparation in a real browser: what an operator and a radiologist see of it."""

from pathlib import Path

import pytest
from PIL import Image
from support.bids_maker import head, write_nifti, write_subject
from support.browser import Browser, of_colour
from support.site import Site

WIDE, NARROW = 1280, 400
SCHEMES = ("light", "dark")
OUTLINE = (255, 138, 0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a source with ordinary cases, one without a lesion, one with a warning, and two left out."""
    place = tmp_path_factory.mktemp("report")
    source = place / "source"
    for number in range(4):
        write_subject(source, f"ordinary{number}", head(number))
    _, mask = write_subject(source, "empty", head(4))
    write_nifti(mask, head(4).mask * 0, head(4).affine)
    write_subject(source, "unsure", head(5), sidecar={"Manufacturer": "A maker whose name is long " * 3})
    _, mask = write_subject(source, "unlabelled", head(6))
    mask.unlink()
    _, mask = write_subject(source, "painted", head(7))
    write_nifti(mask, head(7).mask * 255, head(7).affine)
    site = Site(place / "site")
    site.init(preparation={"spacing_mm": [4.0, 4.0, 4.0]})
    answer = site.run("prepare-data", str(source), "--task", "stroke-dwi", "--check-only")
    assert answer.code == 0, answer.stderr
    assert (answer.json["data"]["cases"], len(answer.json["data"]["excluded"])) == (6, 2)
    return Path(answer.json["data"]["report"])


def shown(tab: Browser) -> int:
    """How many cases are on the page."""
    return int(tab.ask("[...document.querySelectorAll('.case')].filter(one => one.offsetHeight > 0).length"))


def of_outline(picture: Image.Image) -> int:
    """How many pixels have the outline's colour."""
    return of_colour(picture, OUTLINE)


@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_the_page_fits_and_shows_its_pictures(tab: Browser, page: Path, width: int, scheme: str) -> None:
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    assert tab.ask("document.documentElement.scrollWidth") == width, "nothing may stick out to the right"
    cut = "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
    assert tab.ask(f"{cut}.length") == 0
    decoded = "Promise.all([...document.images].map(one => one.decode().then(() => one.naturalWidth > 9)))"
    assert tab.ask(decoded) == [True] * 18
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("data:image/jpeg", page.as_uri()[:60]))] == []

    picture = tab.seen()
    paper = picture.getpixel((0, 0))
    assert (sum(paper) > 3 * 128) == (scheme == "light")
    colours = {colour: count for count, colour in picture.getcolors(1 << 24)}
    assert 0.2 < colours[paper] / (picture.width * picture.height) < 0.9
    assert len(colours) > 500
    assert of_outline(picture) > 300, "the masks' outlines"


def test_text_can_be_read(tab: Browser, page: Path) -> None:
    """Contrast of 4.5 to 1 and better (WCAG 2.2, 1.4.3), in both schemes, of every colour of text on its background."""
    for scheme in SCHEMES:
        tab.like(prefers_color_scheme=scheme)
        tab.open(page, WIDE)
        found = tab.contrasts()
        assert len(found) > 100
        assert [pair for pair in found if pair[0] < 4.5] == []


def test_groups_are_shown_alone_and_outlines_hidden_without_any_script(tab: Browser, page: Path) -> None:
    tab.like(prefers_color_scheme="light")
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(page, WIDE)
    tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert shown(tab) == 6
    for choice, count in (("look", 2), ("none", 1), ("r-b-value-assumed", 1), ("all", 6)):
        tab.ask(f"document.querySelector('[for=c-{choice}]').click()")
        assert shown(tab) == count, choice
    before = of_outline(tab.seen())
    tab.ask("document.querySelector('[for=plain]').click()")
    assert of_outline(tab.seen()) < before / 5
    narrow = tab.ask("document.querySelector('.case').offsetWidth")
    tab.ask("document.querySelector('[for=large]').click()")
    assert tab.ask("document.querySelector('.case').offsetWidth") > 1.8 * narrow


def test_what_needs_a_look_comes_first_and_reasons_can_be_opened(tab: Browser, page: Path) -> None:
    tab.open(page, WIDE)
    first = tab.ask(
        "[...document.querySelectorAll('.case')].slice(0, 2).map(one => one.querySelector('.rule').textContent)"
    )
    assert sorted(first) == ["b-value-assumed", "label-empty"]
    assert tab.ask("document.querySelectorAll('details').length") == 2
    closed = "document.querySelector('details').offsetHeight"
    tab.ask("document.querySelector('details').open = true")
    opened = tab.ask(closed)
    tab.ask("document.querySelector('summary').click()")
    assert tab.ask(closed) < opened


def test_it_prints(tab: Browser, page: Path) -> None:
    tab.like(prefers_color_scheme="dark", media="print")
    tab.open(page, WIDE)
    picture = tab.seen()
    assert picture.getpixel((0, 0)) == (255, 255, 255), "paper is white, whatever the reader prefers"
    assert of_outline(picture) > 300, "every case is printed, also what was out of sight"
    printed = tab.printed()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Subtype /Image") >= 18
