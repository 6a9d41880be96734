"""The pages of a model and of the rounds in a real browser: what a radiologist and an operator see of them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.browser import Browser, of_colour
from support.evaluation_maker import AtHome, Threshold, model_of, prepared
from support.federation import NAME

from fedsite.jobs.models import choice, evaluations
from fedsite.jobs.models.evaluate import Order, evaluate_at_home
from fedsite.jobs.pages import own_rounds, writing
from fedsite.site.config import TrainingSettings
from fedsite.site.state import State

MASK, SEGMENTATION = (255, 138, 0), (53, 194, 255)
ROUNDS = 5


def remember(state: State) -> None:
    """Rounds as they would have been."""
    for number in range(1, ROUNDS + 1):
        dice = 0.1 * number
        common = {"low": dice - 0.05, "high": dice + 0.05, "seconds": 10.0}
        state.put_evaluation(f"g{number}", {"kind": "global", "round": number - 1, "mean_dice": dice, **common})
        state.put_evaluation(f"t{number}", {"kind": "trained", "round": number, "mean_dice": dice + 0.02, **common})
        training = {"loss": [1 / (number + step / 10) for step in range(20)], "steps": 40, "seconds": 30.0 + number}
        state.put_round(NAME, number, "acknowledged", {"training": training})


def left(number: int) -> dict[str, Any]:
    """What left in a round, as `egress.describe` would say it."""
    norms = {"norm_before": 0.3, "norm_after": 0.1, "noise_norm": 31.6, "signal_to_noise": 0.003}
    sizes = {"lowest": -22, "counts": [1, 9, 40, 90, 30]}
    names = ["encoder 1", "encoder 2", "bottom", "decoder 1", "head"]
    blocks = [
        {"name": name, "values": 10 ** (place + 3), "zeros": 5 * place} | norms | sizes
        for place, name in enumerate(names)
    ]
    words = "epsilon 1,234 per patient (add or remove one), delta 1e-06: no meaningful guarantee"
    whole = {"mechanism": "gaussian-update", "tensors": [{"name": "a", "shape": [3]}] * 12, "values": 11_111_000}
    whole |= {"bytes": 44_444_000, "zeros": 0, "clip_norm": 1.0, "noise_standard_deviation": 0.1 * number}
    whole |= {"signal_to_noise_at_most": 0.003, "guarantee_before": words, "guarantee_after": words}
    return whole | norms | sizes | {"blocks": blocks}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The page of a model that was measured on six cases, and the page of five rounds."""
    place = tmp_path_factory.mktemp("evaluation")
    prepared(place, held_out=6)
    model = model_of(place, "file")
    config = SimpleNamespace(training=TrainingSettings(device="cpu"), paths=SimpleNamespace(data=place / "data"))
    with pytest.MonkeyPatch.context() as patch, State.create(place / "state") as state:
        patch.setattr(choice, "network_of", lambda model: Threshold())
        remember(state)
        site = AtHome(state, config)
        done = evaluate_at_home(site, Order(model.path, place / "plan.yaml"), site.step)
        rounds = writing.place(state, writing.ROUNDS)
        own_rounds.write(rounds, NAME, evaluations.rounds(state, NAME), {1: left(1), 2: left(2)})
        yield done.report, rounds


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_a_models_page_fits_and_shows_mask_and_segmentation(
    tab: Browser, made: tuple[Path, Path], width: int, scheme: str
) -> None:
    page, _ = made
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    tab.ask("document.querySelector('details').open = true")
    assert tab.ask("document.documentElement.scrollWidth") == width, "nothing may stick out to the right"
    decoded = "Promise.all([...document.images].map(one => one.decode().then(() => one.naturalWidth > 9)))"
    assert tab.ask(decoded) == [True] * 18
    assert tab.ask("[...document.querySelectorAll('.badge')].map(one => one.textContent)") == (
        ["worst"] * 2 + ["median"] * 2 + ["best"] * 2
    )
    assert tab.ask("document.querySelectorAll('details tbody tr').length") == 6
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("data:image/jpeg", page.as_uri()[:60]))] == []
    picture = tab.seen()
    assert of_colour(picture, MASK) > 200 < of_colour(picture, SEGMENTATION)
    tab.ask("document.querySelector('[for=plain]').click()")
    assert of_colour(tab.seen(), SEGMENTATION) < of_colour(picture, SEGMENTATION) / 5
    assert [pair for pair in tab.contrasts() if pair[0] < 4.5] == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_the_page_of_rounds_draws_its_curves(tab: Browser, made: tuple[Path, Path], width: int, scheme: str) -> None:
    _, page = made
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    assert tab.ask("document.documentElement.scrollWidth") == width
    titles = tab.ask("[...document.querySelectorAll('.charts:not(.small) h3')].map(one => one.innerText)")
    assert titles == ["Dice on held-out patients", "Loss in each round", "Seconds in each round"]
    boxes = (
        "[...document.querySelectorAll('.plot path')].map(one => one.getBBox()).map(b => [b.x, b.y, b.width, b.height])"
    )
    for x, y, wide, high in tab.ask(boxes):
        assert -1 <= x <= x + wide <= 1001
        assert -1 <= y <= y + high <= 301
    assert tab.ask("document.querySelectorAll('table')[0].querySelectorAll('tbody tr').length") == ROUNDS + 1
    line = tab.ask("getComputedStyle(document.querySelector('.plot .line')).stroke.match(/[0-9]+/g).map(Number)")
    assert of_colour(tab.seen(), tuple(line)) > 300, "the curves can be seen"
    assert [pair for pair in tab.contrasts() if pair[0] < 4.5] == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_of_rounds_shows_what_left(tab: Browser, made: tuple[Path, Path], width: int, scheme: str) -> None:
    _, page = made
    tab.like(prefers_color_scheme=scheme)
    tab.open(page, width)
    titles = "[...document.querySelectorAll('details')].map(one => [one.querySelector('summary').innerText, one.open])"
    assert tab.ask(titles) == [["Round 2", True], ["Round 1", False]]
    shown = "[...document.querySelectorAll('details[open] .small h3')].map(one => one.innerText)"
    assert tab.ask(shown) == ["whole update", "encoder 1", "encoder 2", "bottom", "decoder 1", "head"]
    cells = "[...document.querySelectorAll('details[open] tbody tr')[1].children].map(one => one.innerText)"
    assert tab.ask(cells) == ["encoder 1", "1,000", "0.3", "0.1", "31.6", "0.003"]
    boxes = (
        "[...document.querySelectorAll('details[open] .small .field')].map(one => one.getBoundingClientRect().right)"
    )
    assert max(tab.ask(boxes)) <= width
    style = "getComputedStyle(document.querySelector('.small .{}')).{}.match(/[0-9]+/g).map(Number)"
    colours = [tab.ask(style.format(*what)) for what in (("bar", "fill"), ("line", "stroke"))]
    picture = tab.seen()
    for colour in colours:
        assert of_colour(picture, tuple(colour)) > 300, "the update and the noise can be seen"


def test_they_print(tab: Browser, made: tuple[Path, Path]) -> None:
    for page in made:
        tab.like(prefers_color_scheme="dark", media="print")
        tab.open(page, 1280)
        assert tab.seen().getpixel((0, 0)) == (255, 255, 255), "paper is white, whatever the reader prefers"
        assert tab.printed().startswith(b"%PDF")
