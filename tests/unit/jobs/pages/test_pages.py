"""Which cases a page shows, and what its curves say."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsite.errors import CannotWrite
from fedsite.jobs.models import evaluation_page
from fedsite.jobs.pages import curves, own_rounds
from fedsite.jobs.pages.curves import HEIGHT, WIDTH, Chart, Point, RoundFacts
from fedsite.training.metrics import Measures
from fedsite.training.summary import Detection, MeasuredCase


def case(number: int, dice: float) -> MeasuredCase:
    return MeasuredCase(f"e-{number}", f"p-{number}", "", {"lesion": Measures(dice, None, 1.0, 1.0, (), 0)})


def points(chart: Chart | None, kind: str, series: int = 0) -> list[tuple[float, float]]:
    """Where the shapes of a kind begin and bend."""
    assert chart is not None
    paths = [shape.path for shape in chart.shapes if (shape.kind, shape.series) == (kind, series)]
    pairs = [re.findall(r"[ML]([\d.]+) ([\d.]+)", path) for path in paths]
    return [(float(x), float(y)) for found in pairs for x, y in found]


@pytest.mark.parametrize(
    ("count", "kinds"),
    [
        (1, ["worst"]),
        (2, ["worst", "best"]),
        (3, ["worst", "median", "best"]),
        (5, ["worst", "median", "best"]),
        (7, ["worst"] * 2 + ["median"] * 2 + ["best"] * 2),
        (20, ["worst"] * 3 + ["median"] * 3 + ["best"] * 3),
    ],
)
def test_no_case_is_shown_twice(count: int, kinds: list[str]) -> None:
    chosen = evaluation_page.choose([case(number, number / 100) for number in reversed(range(count))])
    assert [kind for kind, _ in chosen] == kinds
    dices = [found.dice for _, found in chosen]
    assert dices == sorted(set(dices))
    assert (dices[0], dices[-1]) == (0, (count - 1) / 100)


def test_the_median_is_in_the_middle() -> None:
    chosen = evaluation_page.choose([case(number, number / 100) for number in range(20)])
    assert [found.dice for kind, found in chosen if kind == "median"] == pytest.approx([0.09, 0.10, 0.11])


def test_found_lesions_are_bars() -> None:
    (bar,) = evaluation_page.found_by_size([Detection("< 1 ml", 8, 2)])
    assert (bar.label, bar.share, bar.count) == ("< 1 ml", 25, "2 of 8")


def test_a_page_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="no folder"):
        own_rounds.write(tmp_path / "missing" / "page.html", "north", (), {})


def test_names_are_escaped(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    own_rounds.write(page, "<b>north</b>", (RoundFacts(1, "fetched"),), {})
    assert "&lt;b&gt;north" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600


def test_dice_lies_between_tenths_and_its_interval_around_it() -> None:
    rounds = [
        RoundFacts(0, shared=Point(0.25, 0.22, 0.31)),
        RoundFacts(1, trained=Point(0.3, None, None)),
        RoundFacts(2, shared=Point(0.4, None, None), trained=Point(0.55, None, None)),
    ]
    chart = curves.dice_chart(rounds)
    assert chart is not None
    assert (chart.bottom, chart.top) == ("0.2", "0.6")
    assert points(chart, "line") == [(0, 262.5), (WIDTH, 150)]
    assert points(chart, "dots", 1) == [(WIDTH / 2, 225), (WIDTH, 37.5)]
    assert points(chart, "band") == [(0, 217.5), (0, 285)]
    assert chart.along == ((0.0, "0"), (0.5, "1"), (1.0, "2"))


def test_losses_follow_each_other_by_steps() -> None:
    chart = curves.loss_chart(
        [RoundFacts(4, loss=(2.0, 1.0), steps=10), RoundFacts(5), RoundFacts(6, loss=(0.5,), steps=30)]
    )
    assert chart is not None
    assert (chart.bottom, chart.top) == ("0", "2")
    assert points(chart, "line") == [(62.5, 0), (187.5, 150), (625, 225)]
    assert points(chart, "dots") == [(625, 225)], "a line of one point could not be seen"
    assert points(chart, "rule") == [(250, 0)]
    assert chart.along == ((0.125, "4"), (0.625, "6"))


def test_seconds_are_stacked() -> None:
    rounds = [RoundFacts(1, training_seconds=30, measuring_seconds=10), RoundFacts(2, training_seconds=20)]
    chart = curves.seconds_chart(rounds)
    assert chart is not None
    assert chart.top == "40 s"
    assert points(chart, "bar", 0) == [(75, HEIGHT - 225), (575, HEIGHT - 150)]
    assert points(chart, "bar", 1) == [(75, 0), (575, HEIGHT - 150)]


def test_many_rounds_have_few_labels() -> None:
    rounds: list[Any] = [RoundFacts(number, shared=Point(0.5, None, None)) for number in range(400)]
    chart = curves.dice_chart(rounds)
    assert chart is not None
    assert len(chart.along) <= curves.MOST_LABELS
    assert len(points(chart, "line")) == 400


def test_nothing_known_is_nothing_drawn() -> None:
    assert curves.charts([]) == ()
    assert curves.charts([RoundFacts(1, "fetched")]) == ()


def test_a_histogram_shows_the_update_beside_the_noise() -> None:
    block = {"name": "head", "values": 100, "zeros": 20, "lowest": -5, "counts": [10, 30, 40]}
    (chart,) = curves.histograms([block], 1.0)
    bars, line = (next(shape for shape in chart.shapes if shape.kind == kind) for kind in ("bar", "line"))
    found = [
        (float(x), float(y), float(side)) for x, y, side in re.findall(r"M([\d.]+) 300v-([\d.]+)h([\d.]+)", bars.path)
    ]
    assert [height / found[2][1] for _, height, _ in found] == pytest.approx([0.25, 0.75, 1], abs=0.01)
    assert found[0][0] < found[1][0] < found[2][0] < found[2][0] + found[2][2] <= WIDTH
    tops = points(chart, "line", 1)
    assert min(y for _, y in tops) == pytest.approx(75, abs=1), "30% of the noise, 40% of the update"
    assert (chart.series, chart.along_title) == (("update", "noise"), "size of a value (20% are zero)")
    ten = {label: place for place, label in chart.along}
    # 0.1 lies between 2^-4 and 2^-3: the bar of what is below 2^-3 is the update's last one.
    assert found[2][0] < WIDTH * ten["1e-1"] < found[2][0] + 1.2 * found[2][2]
    assert line.path
    (alone,) = curves.histograms([block], None)
    assert (alone.series, {shape.kind for shape in alone.shapes}) == (("update",), {"bar"})


@pytest.mark.parametrize("deviation", [1e-4, 0.75, 1.0, 1000.0])
def test_the_noise_of_a_histogram_is_normal(deviation: float) -> None:
    expected = curves.noise_by_powers(deviation)
    exponents = np.frexp(np.random.default_rng(0).normal(scale=deviation, size=200_000))[1]
    for exponent, share in expected.items():
        assert np.mean(exponents == exponent) == pytest.approx(share, abs=0.006)
    assert 0.99 < sum(expected.values()) <= 1


def test_an_update_of_zeros_has_a_histogram() -> None:
    empty = {"name": "head", "values": 4, "zeros": 4, "lowest": -60, "counts": []}
    full = {"name": "bottom", "values": 4, "zeros": 0, "lowest": -5, "counts": [2, 2]}
    first, second = curves.histograms([empty, full], None)
    assert (first.shapes, first.along_title) == ((), "size of a value (100% are zero)")
    assert first.along == second.along, "one axis for all"
