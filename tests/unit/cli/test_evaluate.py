"""What `fedsite evaluate` and `fedsite train-round` say to people about models."""

import io
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fedsite.cli import evaluate, train_round
from fedsite.cli.output import Output
from fedsite.jobs import site as site_jobs
from fedsite.jobs.models import evaluate as jobs
from fedsite.training import summary
from fedsite.training.metrics import Lesion, Measures
from fedsite.training.summary import MeasuredCase

BEFORE = {"mean_dice": 0.5, "low": 0.4, "high": 0.6, "patients": 5, "cases": 6, "seconds": 12.4}
AFTER = BEFORE | {"mean_dice": 0.55, "low": None, "high": None, "seconds": 11.0}


def case(number: int, dice: float, hd95: float | None) -> MeasuredCase:
    lesion = Measures(dice, hd95, 4.0, 5.0, (Lesion(4.0, True),), 0)
    return MeasuredCase(f"e-{number}", f"p-{number}", "A [b]maker[/b]", {"lesion": lesion})


def test_the_table() -> None:
    cases = (case(1, 0.5, 3.0), case(2, 0.6, None), case(3, 0.7, 5.0), case(4, 0.8, 4.0))
    found: Any = SimpleNamespace(
        model=SimpleNamespace(title="global model after round 3"),
        summaries=summary.summarise(cases),
        seconds=12.3,
    )
    told = io.StringIO()
    evaluate._show(Console(file=told, width=140), SimpleNamespace(found=found, report=Path("/place/page.html")))
    text = told.getvalue()
    assert "Global model after round 3: lesion, mean (95% interval) over patients" in text
    whole = summary.summarise(cases)[0].all.dice
    assert f"0.650 ({whole.low:.3f} to {whole.high:.3f})" in text
    assert "1 undefined" in text
    assert "1 to 10 ml" in text
    assert "A [b]maker[/b]" in text, "what a header says is no markup"
    assert "Measured in 12 s; it stays at home. Pictures: /place/page.html" in text


def test_the_answer_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cases = (case(1, 0.5, None), case(2, 0.75, 5.0))
    found: Any = SimpleNamespace(
        model=SimpleNamespace(title="global model", sha256="f" * 64, after_round=3),
        cases=cases,
        summaries=summary.summarise(cases),
        dice=summary.mean_dice(cases),
        split="validation",
        seconds=12.34,
    )
    orders = []
    done = SimpleNamespace(found=found, report=Path("/place/page.html"))
    monkeypatch.setattr(site_jobs, "open_site", lambda config, warn: nullcontext("a site"))
    monkeypatch.setattr(jobs, "evaluate_at_home", lambda site, order, step: orders.append(order) or done)
    context: Any = SimpleNamespace(find_root=lambda: SimpleNamespace(obj=Output(as_json=True)))
    evaluate.evaluate(context, Path("/a/model"), Path("/a/plan"), None, training_cases=True)
    assert orders == [jobs.Order(Path("/a/model"), Path("/a/plan"), None, True)]
    answer = json.loads(capsys.readouterr().out)
    assert answer["outcome"] == "evaluated"
    data = answer["data"]
    assert (data["mean_dice"], data["low"], data["patients"], data["after_round"]) == (0.625, None, 2, 3)
    assert (data["dice"], data["seconds"], data["report"]) == ({"e-1": 0.5, "e-2": 0.75}, 12.3, "/place/page.html")
    assert [one["structures"]["lesion"]["hd95_mm"] for one in data["cases"]] == [None, 5.0]
    assert data["summaries"][0]["all"]["hd95_mm"]["undefined"] == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, []),
        (BEFORE, None, ["Dice 0.500 (95%: 0.400 to 0.600) on 6 held-out cases; measured in 12 s"]),
        (BEFORE, AFTER, ["on 6 held-out cases, trained here 0.550; measured in 23 s, it stays at home."]),
    ],
)
def test_a_round_tells_what_was_measured(before: Any, after: Any, expected: list[str]) -> None:
    lines = train_round._quality({"evaluation": before, "evaluation_after": after, "report": "/place/rounds.html"})
    assert lines[-1] == "All rounds: /place/rounds.html"
    assert len(lines) == len(expected) + 1
    assert all(text in line for text, line in zip(expected, lines, strict=False))
