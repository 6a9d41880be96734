"""What `fedsite predict` and `fedsite personalize` say, to people and to programs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from fedsite.cli.main import app
from fedsite.cli.output import Output
from fedsite.dataset.manifest import Exclusion, Remark
from fedsite.dataset.rules import finding
from fedsite.jobs import site
from fedsite.jobs.models import personalize, predict
from fedsite.jobs.models.choice import Model
from fedsite.jobs.models.personal import Gain
from fedsite.jobs.models.personalize import Asked
from fedsite.jobs.models.predict import Order, Predicted, Prediction, Structure

MODEL = Model(Path("model"), "ab" * 32, None, "global", after_round=7)  # type: ignore[arg-type]
FOUND = Prediction(
    study="e-one",
    image="s-one",
    missing=("flair",),
    structures={"lesion": Structure(12.345, 3)},
    findings=(finding("incomplete-head", "s-one", extent=80.0),),
    files=(Path("/results/e-one.dcm"), Path("/results/e-one.png")),
)
REFUSED = Exclusion(id="e-two", patient="p-two", findings=(Remark.of(finding("trace-missing", "e-two")),))


def run(*args: str) -> None:
    typer.main.get_command(app).main(list(args), obj=Output(command=args[0]), standalone_mode=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    orders: list[Order] = []

    def answer(_config: Path | None, order: Order, _step: Any, _warn: Any) -> Predicted:
        orders.append(order)
        return Predicted(MODEL, (FOUND,), (REFUSED,))

    monkeypatch.setattr(predict, "predict", answer)
    return orders


def test_options_reach_the_job(asked: list[Order], tmp_path: Path) -> None:
    options = ("--out", "o", "--only", "e-1", "--only", "s-2", "--nifti", "--resample", "tilt", "--layout", "bids")
    run("predict", "study", *options, "--model", "m", "--plan", "p", "--all", "--personalized")
    assert asked == [
        Order(
            source=Path("study"),
            out=Path("o"),
            only=frozenset({"e-1", "s-2"}),
            every_study=True,
            as_nifti=True,
            resample=frozenset({"tilt"}),
            layout="bids",
            model=Path("m"),
            plan=Path("p"),
            personalised=True,
        )
    ]


def test_what_people_read(asked: list[Order], capsys: pytest.CaptureFixture[str]) -> None:
    run("predict", "study", "--out", "o")
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "The global model after round 7 (abababababab):"
    assert "  lesion: 12.3 ml in 3 part(s)" in lines
    assert "  /results/e-one.dcm" in lines
    assert any("flair" in line for line in lines)
    assert any("80 mm of the head" in line for line in lines)
    assert lines[-1] == "For research use only. Not for the care of a patient."
    assert "Study e-two was refused" in said.err


def test_what_programs_read(asked: list[Order], capsys: pytest.CaptureFixture[str]) -> None:
    run("predict", "study", "--out", "o", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["outcome"] == "predicted"
    data = answer["data"]
    assert data["use"] == "research"
    assert data["model"] == {"sha256": "ab" * 32, "kind": "global", "after_round": 7}
    (study,) = data["studies"]
    assert study["structures"] == {"lesion": {"ml": 12.345, "lesions": 3}}
    assert study["files"] == ["/results/e-one.dcm", "/results/e-one.png"]
    assert study["missing"] == ["flair"]
    assert [each["id"] for each in study["findings"]] == ["incomplete-head"]
    assert [each["id"] for each in data["refused"]] == ["e-two"]


@pytest.mark.parametrize(
    ("kept", "low", "high", "outcome", "words"),
    [
        (True, 0.02, 0.08, "personalized", "(95% interval +0.020 to +0.080)"),
        (True, -0.02, 0.12, "personalized", "cannot tell this gain from chance"),
        (True, None, None, "personalized", "cannot tell this gain from chance"),
        (False, -0.2, 0.0, "not-better", "was not kept"),
    ],
)
def test_what_personalising_says(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: bool,
    low: float | None,
    high: float | None,
    outcome: str,
    words: str,
) -> None:
    gain = Gain(patients=5, before=0.6, after=0.65, difference=0.05, low=low, high=high)
    record = SimpleNamespace(gain=gain, model_dump=lambda exclude: {"gain": gain.model_dump()})
    orders: list[Asked] = []

    def answer(_site: Any, order: Asked, _step: Any) -> SimpleNamespace:
        orders.append(order)
        return SimpleNamespace(record=record, kept=kept, steps_taken=9)

    monkeypatch.setattr(personalize, "personalise", answer)
    monkeypatch.setattr(site, "open_site", lambda _path, _warn: NoSite())
    run("personalize", "--steps", "9", "--seed", "4")
    assert words in capsys.readouterr().out
    run("personalize", "--json", "--learning-rate", "0.5")
    answered = json.loads(capsys.readouterr().out)
    assert (answered["outcome"], answered["data"]["kept"], answered["data"]["steps_taken"]) == (outcome, kept, 9)
    assert orders == [Asked(steps=9, seed=4), Asked(learning_rate=0.5)]


class NoSite:
    """Stands in for an open site."""

    def __enter__(self) -> "NoSite":
        return self

    def __exit__(self, *exception: object) -> None:
        pass
