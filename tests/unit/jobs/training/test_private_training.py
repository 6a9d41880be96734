"""dp-sgd at a site, prepared data in, weights out: nothing depends on who is not in it, and every step is noised."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support.federation import dp_sgd, plan
from support.site import Site, prepare_blobs

from fedsite.dataset import manifest
from fedsite.dataset.manifest import CaseRecord
from fedsite.files import sha256_of
from fedsite.jobs.models import initial
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import Means, PreparedData
from fedsite.privacy import dpsgd, mechanism
from fedsite.wire import payload
from fedsite.wire.messages import parse
from fedsite.wire.plans import Plan

STEPS = 6
LOCAL = {"steps": STEPS, "patch_voxels": [16, 16, 16], "learning_rate": 0.05, "optimizer": "sgd", "momentum": 0.0}
KEY = {"id": "0" * 16, "ed25519": "0" * 64}
OFTEN = Means(checkpoint_minutes=0)
AFFINE = {"name": "unet", "settings": {"channels": [4, 8], "affine": 1}}
# Who is in which step: patients by their place among those of `data`, one step of them empty.
DRAWN = [[0, 2], [1], [], [0], [1, 2], [0, 1, 2]]


class Killed(BaseException):
    """As if the process had gone."""


class Drawn:
    """A test's chance: it goes on from `begin`, and steps over whoever was added at `place`."""

    steps, begin, place = DRAWN, 0, 99

    def __init__(self) -> None:
        self.step = self.begin

    def included(self, count: int, rate: float) -> Sequence[int]:
        self.step += 1
        return [number + (number >= self.place) for number in self.steps[self.step - 1]]


class Counted:
    """A test's noise, from a stream that goes on from `begin` (values taken so far)."""

    begin = 0
    taken: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)
        self.random.standard_normal(self.begin)

    def standard_normal(self, count: int) -> np.ndarray:
        self.taken.append(count)
        return self.random.standard_normal(count)


@pytest.fixture(autouse=True)
def chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn and counted, instead of by the system."""
    monkeypatch.setattr(dpsgd, "SystemChance", Drawn)
    monkeypatch.setattr(mechanism, "SystemNoise", Counted)
    for kind, name, value in (
        (Drawn, "steps", DRAWN),
        (Drawn, "begin", 0),
        (Drawn, "place", 99),
        (Counted, "begin", 0),
    ):
        monkeypatch.setattr(kind, name, value)
    monkeypatch.setattr(Counted, "taken", [])


def asked(privacy: dict[str, Any] | None = None, algorithm: Any = "fedavg", **local: Any) -> Plan:
    changes = {"network": AFFINE} if algorithm == "fedbn" else {}
    content = plan(local=LOCAL | local, privacy=privacy or dp_sgd(), algorithm=algorithm, **changes)
    return parse(Plan, json.dumps(content | {"round_key": KEY, "receipt_key": KEY}).encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = Site(tmp_path_factory.mktemp("site"))
    prepare_blobs(site, patients=4, held_out=2, size=24)
    return site.data


def data_of(folder: Path, cases: Sequence[CaseRecord]) -> PreparedData:
    """The prepared data, with these cases in this order."""
    content = manifest.load(folder).model_copy(update={"cases": tuple(cases)})
    return PreparedData(folder, content, sha256_of(folder / manifest.FILE_NAME))


def without(folder: Path, place: int) -> PreparedData:
    """All but one of the four patients who are trained on, by the order in which chance numbers them."""
    cases = manifest.load(folder).cases
    patient = sorted(case.patient for case in cases if case.split == "training")[place]
    return data_of(folder, [case for case in cases if case.patient != patient])


@pytest.fixture
def train(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(
        plan: Plan | None = None, data: PreparedData | None = None, to: str = "out", kill: int = 0, means: Means = OFTEN
    ) -> bytes:
        def progress(done: int, total: int, note: str = "") -> None:
            if done == kill:
                raise Killed

        plan = plan or asked()
        initial.init(plan, tmp_path / "model", seed=0)
        given = data or without(folder, 3)
        run.record = local_work.train(  # type: ignore[attr-defined]
            plan, 3, tmp_path / "model", given, "cpu", tmp_path / to, progress, means=means, sampling_rate=0.5
        )
        return (tmp_path / to).read_bytes()

    return run


def values(tmp_path: Path, name: str) -> dict[str, np.ndarray]:
    return {key: np.array(value, np.float64) for key, value in payload.tensors_of(tmp_path / name).items()}


# --- nothing else depends on a patient ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_patient_who_is_never_sampled_leaves_no_trace(
    train: Callable[..., bytes], folder: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Four patients, of whom one is in no step, give byte for byte what the three give without that one."""
    three = train(data=without(folder, place))
    monkeypatch.setattr(Drawn, "place", place)
    assert train(data=data_of(folder, manifest.load(folder).cases)) == three


def test_another_draw_gives_other_weights(train: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests around this one would not notice if they compared nothing."""
    first = train()
    monkeypatch.setattr(Drawn, "steps", [[1], *DRAWN[1:]])
    assert train() != first


def test_held_out_patients_leave_no_trace(train: Callable[..., bytes], folder: Path) -> None:
    whole = without(folder, 3)
    first = train(data=whole)
    training, held_out = whole.records("training"), whole.records("validation")
    assert len(held_out) == 2
    for others in ((), held_out[::-1], held_out[:1]):
        assert train(data=data_of(folder, (*others, *training))) == first


def test_a_patient_of_no_numbers_changes_only_the_own_part(
    train: Callable[..., bytes], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Patient 1's gradients are NaN in every step: the weights are those of a training without patient 1."""
    from fedsite.training.private import PatientSampler

    whole, places = PatientSampler._of, list(without(folder, 3).patients("training").values())

    def broken(self: Any, step: int, patient: int, cases: Sequence[int]) -> Any:
        batch = whole(self, step, patient, cases)
        if cases == places[1]:
            batch.image[:] = np.nan
        return batch

    monkeypatch.setattr(PatientSampler, "_of", broken)
    with_nan = train()
    assert "3 times a patient's gradient was not finite, and counted as zero" in train.record["events"]  # type: ignore[attr-defined]
    monkeypatch.setattr(Drawn, "steps", [[0, 2], [], [], [0], [2], [0, 2]])
    assert train() == with_nan
    assert all(np.isfinite(one).all() for one in values(tmp_path, "out").values())


def test_all_studies_of_a_patient_are_clipped_as_one(
    train: Callable[..., bytes], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two studies of one patient move a step by C / batch together; of two patients, by up to twice that."""
    whole = without(folder, 3)
    first, second, third, *held_out = sorted(whole.manifest.cases, key=lambda case: (case.split, case.patient))
    one = data_of(folder, (first, second.model_copy(update={"patient": first.patient}), third, *held_out))
    clip = {"clip_norm": 1e-3, "noise_multiplier": 0.0, "patches_per_patient": 8}
    local = {"steps": 1, "learning_rate": 1.0}
    assert one.patients("training") == {first.patient: (0, 1), third.patient: (2,)}
    norms = []
    for data, everybody in ((one, [0]), (whole, [0, 1])):
        monkeypatch.setattr(Drawn, "steps", [everybody])
        train(asked(dp_sgd(**clip, batch_patients=1), **local), data)
        model, out = values(tmp_path, "model"), values(tmp_path, "out")
        norms.append(np.sqrt(sum(((out[name] - model[name]) ** 2).sum() for name in model)))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert 1.2e-3 < norms[1] <= 2e-3 * (1 + 1e-3)


# --- exactly T ------------------------------------------------------------------------------------------------------


def test_exactly_as_many_additions_as_steps_also_with_empty_batches(
    train: Callable[..., bytes], tmp_path: Path
) -> None:
    train()
    size = sum(one.size for one in values(tmp_path, "model").values())
    assert sum(Counted.taken) == STEPS * size
    assert train.record["steps"] == STEPS  # type: ignore[attr-defined]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_killed_training_goes_on_from_its_checkpoint_on_the_same_way(
    train: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    """The steps that were kept are not taken again, so that the weights hold T additions, however often it was cut off.

    With a chance and a noise that go on where they were, the weights are those of a training left alone.
    """
    whole, size = train(asked(ema=ema)), sum(one.size for one in values(tmp_path, "model").values())
    Counted.taken.clear()
    begun = 0
    for kill in (2, 5, 0):
        monkeypatch.setattr(Drawn, "begin", begun)
        monkeypatch.setattr(Counted, "begin", begun * size)
        if not kill:
            assert train(asked(ema=ema), to="cut") == whole
            continue
        with pytest.raises(Killed):
            train(asked(ema=ema), to="cut", kill=kill)
        begun = kill  # ended while it told of a step: that step is kept
    assert sum(Counted.taken) == STEPS * size, "no step was done again"


def test_a_lost_checkpoint_begins_anew(train: Callable[..., bytes], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(kill=4)
    local_work.kept_beside(tmp_path / "out").unlink()
    Counted.taken.clear()
    train()
    assert sum(Counted.taken) == STEPS * sum(one.size for one in values(tmp_path, "model").values())


# --- what learns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "local", "moves"),
    [
        ("fedavg", {}, "all"),
        ("fedbn", {}, "all"),
        ({"name": "personal", "keep": "head"}, {}, "all"),
        ({"name": "fedprox", "mu": 0.1}, {}, "all"),
        ("scaffold", {}, "all"),
        ("fedavg", {"train": "decoder"}, "decoder"),
        ("fedavg", {"train": "head"}, "head"),
    ],
)
def test_what_learns_is_noised_and_nothing_else_moves(
    train: Callable[..., bytes], tmp_path: Path, algorithm: Any, local: dict[str, Any], moves: str
) -> None:
    """Layers that stay at home are in no file and frozen; those that a plan leaves out leave as they came."""
    from fedsite.tasks import parts

    plan = asked(algorithm=algorithm, **local)
    train(plan)
    model, out = values(tmp_path, "model"), values(tmp_path, "out")
    assert model.keys() == out.keys()
    learns = model.keys() if moves == "all" else parts.of("unet", moves, model)  # type: ignore[arg-type]
    assert {name for name in model if not np.array_equal(model[name], out[name])} == set(learns)
    assert sum(Counted.taken) == STEPS * sum(model[name].size for name in learns)


def test_several_patches_of_a_patient_are_another_gradient_within_the_same_bound(
    train: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drawn, "steps", [[0]])
    found = set()
    for each in (1, 4):
        privacy = dp_sgd(clip_norm=1e-3, noise_multiplier=0.0, patches_per_patient=each, batch_patients=1)
        found.add(train(asked(privacy, steps=1, learning_rate=1.0)))
        model, out = values(tmp_path, "model"), values(tmp_path, "out")
        moved = np.sqrt(sum(((out[name] - model[name]) ** 2).sum() for name in model))
        assert moved == pytest.approx(1e-3, rel=1e-3)
    assert len(found) == 2


def test_patients_are_sampled_at_the_rate_that_is_charged(
    train: Callable[..., bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows from what the site typed (`charging.sampling_rate`), whoever is there."""
    rates = []
    monkeypatch.setattr(Drawn, "included", lambda self, count, rate: rates.append(rate) or [0])
    for data in (without(folder, 3), data_of(folder, manifest.load(folder).cases)):
        train(data=data)
    assert rates == [0.5] * 2 * STEPS
