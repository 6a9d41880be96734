"""Measuring a model on held-out patients: on their own grids, at home, and around a round without any influence."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.evaluation_maker import AtHome, Threshold, model_of, prepared
from support.federation import NAME, draft
from torch import nn

from fedsite.dataset.cases import Content, write_case
from fedsite.errors import DataNotFit, UsageError
from fedsite.jobs.data import prepared as data_jobs
from fedsite.jobs.models import choice, evaluations
from fedsite.jobs.models import evaluate as job
from fedsite.jobs.models.evaluate import Order, evaluate, evaluate_at_home, in_round
from fedsite.site.config import TrainingSettings
from fedsite.site.state import State
from fedsite.tasks import registry
from fedsite.wire.messages import utc_now


@pytest.fixture
def site(tmp_path: Path) -> Iterator[AtHome]:
    paths = SimpleNamespace(data=tmp_path / "data")
    with State.create(tmp_path / "state") as state:
        yield AtHome(state, SimpleNamespace(training=TrainingSettings(device="cpu"), paths=paths))


@pytest.fixture
def threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is one that is nearly right."""
    monkeypatch.setattr(choice, "network_of", lambda model: Threshold())


def test_every_held_out_case_is_measured(tmp_path: Path, threshold: None) -> None:
    data, told = prepared(tmp_path), []
    seen = []
    found = evaluate(
        model_of(tmp_path),
        data,
        "cpu",
        lambda done, total, note="": told.append((done, total, note)),
        lambda record, case, prediction: seen.append((record.id, case.id, prediction.shape)),
    )
    records = data.records("validation")
    assert [case.id for case in found.cases] == [record.id for record in records]
    assert [(case.patient, case.scanner) for case in found.cases] == [(one.patient, "phantom") for one in records]
    assert all(0.8 < case.dice < 1 for case in found.cases)
    assert found.dice.mean == pytest.approx(np.mean([case.dice for case in found.cases]))
    assert found.dice.patients == found.summaries[0].all.patients == 3
    assert (found.data_sha256, found.seconds > 0) == (data.sha256, True)
    assert [one[:2] for one in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1][2] == f"Dice {found.dice.mean:.3f}"
    assert seen == [(record.id, record.id, (20, 20, 20)) for record in records]


def test_it_is_measured_on_the_grid_that_the_mask_was_drawn_on(tmp_path: Path, threshold: None) -> None:
    """Voxels of 1 mm, prepared at 3 mm: the prepared mask is met nearly exactly, the drawn one only nearly."""
    data = prepared(tmp_path, held_out=1)
    grid = np.indices((60, 60, 60)) - 31
    drawn = ((grid**2).sum(axis=0) < 15**2).astype(np.uint8)
    means = drawn.reshape(20, 3, 20, 3, 20, 3).mean(axis=(1, 3, 5))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = 1
    content = Content(
        2 * means[None].astype(np.float16), (means > 0.5).astype(np.uint8), affine, ("dwi",), drawn, np.eye(4)
    )
    (record,) = data.records("validation")
    file, sha256 = write_case(data.folder, record.id, content)
    changed = record.model_copy(update={"file": file, "sha256": sha256})
    data = replace(data, manifest=data.manifest.model_copy(update={"cases": (changed,)}))
    (case,) = evaluate(model_of(tmp_path), data, "cpu").cases
    assert case.measures["lesion"].drawn_ml == pytest.approx(drawn.sum() / 1000)
    assert case.measures["lesion"].segmented_ml * 1000 % 27 > 0, "single voxels of the source, not blocks of 27"
    assert 0.97 < case.dice < 1


def test_each_region_is_a_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = registry.get("brain-tumour-mr")
    data = prepared(tmp_path, held_out=1, task=task.name)
    first = 2 * np.array(sorted(value for value in task.labels if value)) - 1

    class Shells(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([image[:, :1] - float(edge) for edge in first], dim=1)

    monkeypatch.setattr(choice, "network_of", lambda model: Shells())
    channels = list(data.manifest.channels)
    found = evaluate(model_of(tmp_path, task=task.name, channels=channels), data, "cpu")
    assert [summary.structure for summary in found.summaries] == [region.name for region in task.regions]
    assert found.cases[0].measures[task.regions[0].name].dice > 0.8
    assert found.cases[0].dice == pytest.approx(np.mean([one.dice for one in found.cases[0].measures.values()]))


def test_without_held_out_cases(tmp_path: Path) -> None:
    with pytest.raises(DataNotFit, match="no held-out case"):
        evaluate(model_of(tmp_path), prepared(tmp_path, held_out=0), "cpu")


def test_a_case_that_was_changed_is_not_measured(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    file = data.folder / data.records("validation")[1].file
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataNotFit, match="checksum"):
        evaluate(model_of(tmp_path), data, "cpu")


def test_a_model_that_is_damaged_or_of_another_network(tmp_path: Path) -> None:
    data, model = prepared(tmp_path), model_of(tmp_path)
    other = draft(tmp_path, network={"name": "unet", "settings": {"channels": [4, 16]}})
    with pytest.raises(DataNotFit, match="another plan"):
        evaluate(replace(model, plan=other), data, "cpu")
    model.path.write_bytes(model.path.read_bytes()[:-1])
    with pytest.raises(DataNotFit, match="damaged"):
        evaluate(model, data, "cpu")


# --- what is remembered ---------------------------------------------------------------------------------------------


def test_a_record_holds_every_measure_and_stays_small_when_told(site: AtHome, tmp_path: Path, threshold: None) -> None:
    found = evaluate(model_of(tmp_path), prepared(tmp_path), "cpu")
    evaluations.keep(site.state, found)
    body = site.state.evaluation(found.model.sha256)
    assert body is not None
    assert (body["kind"], body["round"], body["cases"], body["mean_dice"]) == ("global", 3, 3, found.dice.mean)
    lesion = body["measures"][0]["structures"]["lesion"]
    measured = found.cases[0].measures["lesion"]
    assert lesion["f1"] == measured.f1
    assert lesion["hd95_mm"] == measured.hd95_mm
    assert body["summaries"][0]["all"]["dice"]["low"] == found.summaries[0].all.dice.low
    told = evaluations.brief(site.state, found.model.sha256)
    assert told is not None
    assert set(told) == {"mean_dice", "low", "high", "patients", "cases", "seconds"}
    assert evaluations.brief(site.state, "0" * 64) is None


def test_what_a_withdrawn_patient_left_is_forgotten(site: AtHome, tmp_path: Path, threshold: None) -> None:
    found = evaluate(model_of(tmp_path), prepared(tmp_path), "cpu")
    evaluations.keep(site.state, found)
    gone = found.cases[1].patient
    evaluations.forget(site.state, gone)
    body = site.state.evaluation(found.model.sha256)
    assert body is not None
    assert [case["id"] for case in body["measures"]] == [found.cases[0].id, found.cases[2].id]
    assert gone not in str(body)
    assert body["mean_dice"] == found.dice.mean


def test_what_is_known_of_each_round(site: AtHome) -> None:
    def kept(sha256: str, kind: str, number: int | None, dice: float, seconds: float) -> None:
        body = {"kind": kind, "round": number, "mean_dice": dice, "low": None, "high": None, "seconds": seconds}
        site.state.put_evaluation(sha256, body)

    kept("a", "global", 0, 0.1, 2.0)
    kept("b", "trained", 1, 0.2, 3.0)
    kept("c", "trained", 1, 0.3, 4.0)
    kept("d", "global", 1, 0.25, 5.0)
    kept("e", "file", None, 0.9, 9.0)
    site.state.put_evaluation("old", {"round": 1, "mean_dice": 0.5})
    training = {"loss": [0.9, 0.7], "steps": 40, "seconds": 12.5}
    site.state.put_round(NAME, 1, "acknowledged", {"training": training})
    site.state.put_round(NAME, 2, "fetched", {})
    zero, one, two = evaluations.rounds(site.state, NAME)
    assert (zero.number, zero.shared and zero.shared.dice, zero.trained) == (0, 0.1, None)
    assert (one.shared and one.shared.dice, one.trained and one.trained.dice) == (0.25, 0.3)
    assert (one.loss, one.steps, one.training_seconds, one.measuring_seconds) == ((0.9, 0.7), 40, 12.5, 2.0 + 3.0 + 4.0)
    assert (two.state, two.loss, two.measuring_seconds) == ("fetched", (), 5.0)
    assert evaluations.newest_seconds(site.state) == 0.0, "the newest does not say"


# --- around a round -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "measured"), [(True, ["global", "trained"]), ("before", ["global"]), (False, [])], ids=str
)
def test_site_yaml_says_what_is_measured(
    site: AtHome, tmp_path: Path, threshold: None, asked: bool | str, measured: list[str]
) -> None:
    site.config.training = TrainingSettings(device="cpu", evaluate=asked)
    data = prepared(tmp_path)
    kinds: tuple[choice.Kind, ...] = ("global", "trained")
    for seed, kind in enumerate(kinds):
        model = replace(model_of(tmp_path, kind), sha256=str(seed) * 64)
        in_round(site, model, lambda: data, site.step, utc_now() + timedelta(days=1))
    assert [body["kind"] for body in site.state.evaluations().values()] == measured
    assert site.events("evaluation failed") == []


def test_a_model_is_measured_anew_only_on_other_data(site: AtHome, tmp_path: Path, threshold: None) -> None:
    data, model = prepared(tmp_path), model_of(tmp_path)
    for prepared_data in (data, data, replace(data, sha256="f" * 64)):
        in_round(site, model, lambda given=prepared_data: given, site.step)
    assert len(site.steps) == 2


def test_it_is_left_out_where_the_round_might_end_meanwhile(site: AtHome, tmp_path: Path, threshold: None) -> None:
    site.state.put_evaluation("a", {"seconds": 60.0})
    data, model = prepared(tmp_path), model_of(tmp_path, "trained")
    in_round(site, model, lambda: data, site.step, utc_now() + timedelta(minutes=9))
    assert (site.steps, len(site.events("evaluation left out"))) == ([], 1)
    in_round(site, model, lambda: data, site.step, utc_now() + timedelta(minutes=11))
    assert len(site.steps) == 1


def test_nothing_held_out_is_no_failure(site: AtHome, tmp_path: Path) -> None:
    data = prepared(tmp_path, held_out=0)
    in_round(site, model_of(tmp_path), lambda: data, site.step)
    assert (site.steps, site.events("evaluation failed")) == ([], [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataNotFit("The case is gone."), "The case is gone."),
        (RuntimeError("/data/MUELLER^HANS"), "RuntimeError"),
        (MemoryError(), "MemoryError"),
    ],
    ids=str,
)
def test_a_failure_is_audited_and_the_round_goes_on(
    site: AtHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    data = prepared(tmp_path)
    monkeypatch.setattr(job, "evaluate", fails)
    in_round(site, model_of(tmp_path), lambda: data, site.step)
    (event,) = site.events("evaluation failed")
    assert (event["reason"], event["round"], event["model"]) == (reason, 3, "global")


def test_an_interruption_is_no_failure(site: AtHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    data = prepared(tmp_path)
    monkeypatch.setattr(job, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_round(site, model_of(tmp_path), lambda: data, site.step)


# --- `fedsite evaluate` ---------------------------------------------------------------------------------------------


@pytest.fixture
def order(site: AtHome, tmp_path: Path) -> Order:
    """A model of the operator's own, and its plan; prepared data lie where site.yaml says."""
    prepared(tmp_path, held_out=4)
    model = model_of(tmp_path, "file")
    return Order(model.path, tmp_path / "plan.yaml")


def test_a_page_is_written_and_the_result_kept(site: AtHome, order: Order, threshold: None) -> None:
    done = evaluate_at_home(site, order, site.step)
    assert done.report == site.state.folder / "reports" / "evaluation.html"
    assert done.report.stat().st_mode & 0o777 == 0o600
    assert done.report.parent.stat().st_mode & 0o777 == 0o700
    page = done.report.read_text()
    assert page.count('<article class="case">') == 3
    assert all(case.id in page for case in done.found.cases)
    assert f"{done.found.dice.mean:.3f}" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert site.state.evaluation(done.found.model.sha256) is not None


def test_a_model_that_finds_nothing_has_a_page_too(site: AtHome, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(Threshold):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image - 100)

    monkeypatch.setattr(choice, "network_of", lambda model: Nothing())
    done = evaluate_at_home(site, order, site.step)
    (found,) = done.found.summaries
    assert (found.all.dice.mean, found.all.hd95_mm.mean, found.all.hd95_mm.undefined) == (0, None, 4)
    page = done.report.read_text()
    assert "undefined in 4" in page
    assert "0 of 1 found, 0 false" in page


def test_the_page_goes_where_it_is_asked_for(site: AtHome, order: Order, threshold: None, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere.html"
    assert evaluate_at_home(site, replace(order, report=place), site.step).report == place
    assert place.stat().st_mode & 0o777 == 0o600


def test_what_was_learned_from_can_be_measured_and_is_not_remembered(
    site: AtHome, order: Order, threshold: None
) -> None:
    done = evaluate_at_home(site, replace(order, training_cases=True), site.step)
    assert (done.found.split, len(done.found.cases)) == ("training", 1)
    assert "1 training case of 1 patient\n" in done.report.read_text()
    assert site.state.evaluations() == {}


def test_pictures_and_measures_leave_with_a_withdrawn_patient(
    site: AtHome, order: Order, threshold: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = evaluate_at_home(site, order, site.step)
    gone = done.found.cases[0].patient
    monkeypatch.setattr(data_jobs, "open_site", lambda config: nullcontext(site))
    for _ in range(2):
        data_jobs.withdraw(None, gone, tmp_path / "no folder")
        assert not done.report.exists()
        assert gone not in str(site.state.evaluations())


def test_a_plan_alone_names_no_model(site: AtHome, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--plan"):
        evaluate_at_home(site, Order(plan=tmp_path / "plan.yaml"), site.step)
