"""Evaluation and what leaves: the bytes of a release are the same whatever is measured, or fails, or is held out."""

import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from support.evaluation_maker import AtHome, model_of, prepared
from support.federation import dp_sgd, draft

from fedsite.files import sha256_of
from fedsite.jobs.models import evaluate as job
from fedsite.jobs.models import evaluations
from fedsite.jobs.plan.verification import Offer
from fedsite.jobs.progress import silent_steps
from fedsite.jobs.round import state_machine
from fedsite.jobs.round.state_machine import Round
from fedsite.privacy import dpsgd, mechanism
from fedsite.privacy.ledger import Ledger, Terms
from fedsite.site.config import Paths, TrainingSettings
from fedsite.site.policy import Policy
from fedsite.site.state import State
from fedsite.wire.messages import PublicKey, Ticket, utc_now
from fedsite.wire.plans import Plan

KEY = PublicKey(id="0" * 16, ed25519="0" * 64)
LOCAL = {"steps": 2, "patch_voxels": [16, 16, 16], "optimizer": "sgd", "learning_rate": 0.1}


class SeededNoise(mechanism.SystemNoise):
    """A test's noise: the same in every round."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)

    def standard_normal(self, count: int) -> np.ndarray:
        return self.random.standard_normal(count)


class Everybody:
    """A test's chance: all patients are in every step. It remembers for how many, and at what rate, it was asked."""

    asked: ClassVar[list[tuple[int, float]]] = []

    def included(self, count: int, rate: float) -> range:
        self.asked.append((count, rate))
        return range(count)


class Client:
    """A server that has one model, and whose round stands."""

    def __init__(self, model: Path) -> None:
        self.model = model

    def download_model(self, _sha256: str, _size: int, destination: Path, _progress: Any) -> None:
        shutil.copyfile(self.model, destination)

    def round_answer(self, _number: int) -> SimpleNamespace:
        return SimpleNamespace(status="open", ticket_sha256="2" * 64)


def begin(folder: Path, state: State, changes: dict[str, Any] | None = None, **training: Any) -> Round:
    """A round in state `offered`, for prepared data in `folder`, under a plan with these changes."""
    asked = {"local": LOCAL, **(changes or {})}
    model = model_of(folder, **asked)
    plan = Plan(**draft(folder, **asked).model_dump(by_alias=True), round_key=KEY, receipt_key=KEY)
    ticket = Ticket(
        federation=plan.federation, plan_sha256="1" * 64, round=1, previous_ticket=None,
        model_sha256=model.sha256, model_bytes=model.path.stat().st_size,
        opened=utc_now(), expires=utc_now() + timedelta(days=1),
    )  # fmt: skip
    settings = TrainingSettings(device="cpu", **training)
    paths = Paths(state=folder / "state", data=folder / "data")
    config = SimpleNamespace(training=settings, paths=paths, policy=Policy())
    site: Any = AtHome(state, config)
    site.pinned = SimpleNamespace(site="site-a")
    site.ledger = Ledger.create(state, Terms(1e6, 1e-6, 10.0, nominal_patients=20))
    client: Any = Client(model.path)
    return Round(
        site, client, Offer(plan, ticket, "1" * 64, "2" * 64), silent_steps, "offered", {"plan_sha256": "1" * 64}
    )


def released(here: Round) -> bytes:
    """The bytes that the round would send."""
    state_machine.advance(here, until="released")
    return here.payload.read_bytes()


MECHANISMS = {
    "gaussian-update": {"privacy": {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.1}},
    "dp-sgd": {"privacy": dp_sgd()},
}


@pytest.fixture(params=list(MECHANISMS))
def changes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a plan under each mechanism, with a test's chance and noise."""
    monkeypatch.setattr(mechanism, "SystemNoise", SeededNoise)
    monkeypatch.setattr(dpsgd, "SystemChance", Everybody)
    return MECHANISMS[request.param]


def test_what_leaves_does_not_know_of_any_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:

    def run(name: str, held_out: int, **training: Any) -> tuple[bytes, list[str], int]:
        folder = tmp_path / name
        prepared(folder, patients=2, held_out=held_out)
        with State.create(folder / "state") as state:
            here = begin(folder, state, changes, **training)
            payload = released(here)
            kinds = [body["kind"] for body in state.evaluations().values()]
            failures = [one for one in state.records("audit") if one.body["event"] == "evaluation failed"]
            return payload, kinds, len(failures)

    without = run("without", 2, evaluate=False)
    assert without[1:] == ([], 0)
    assert run("both", 2, evaluate=True) == (without[0], ["global", "trained"], 0)
    assert run("before", 2, evaluate="before") == (without[0], ["global"], 0)
    assert run("others", 5, evaluate=True) == (without[0], ["global", "trained"], 0), "other patients are held out"

    def fails(*_: object) -> None:
        np.random.default_rng(0).normal(size=3)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(job, "evaluate", fails)
    assert run("failing", 2, evaluate=True) == (without[0], [], 2)


def test_another_training_is_another_release(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the test above would not notice if it compared nothing."""
    payloads = set()
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        prepared(folder, patients=2, held_out=0, seed=seed)
        with State.create(folder / "state") as state:
            payloads.add(released(begin(folder, state, changes, evaluate=False)))
    assert len(payloads) == 2


def test_patients_are_drawn_at_the_rate_and_as_often_as_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 2 of the 20 patients that were typed, though only 3 are here; once for each of the steps."""
    monkeypatch.setattr(dpsgd, "SystemChance", Everybody)
    monkeypatch.setattr(Everybody, "asked", [])
    prepared(tmp_path, patients=3, held_out=0)
    with State.create(tmp_path / "state") as state:
        here = begin(tmp_path, state, {"privacy": dp_sgd(batch_patients=2)}, evaluate=False)
        released(here)
        [charge] = [one.body for one in state.records("ledger") if one.body["kind"] == "reserved"]
    assert (charge["sampling_rate"], charge["steps"]) == (0.1, LOCAL["steps"])
    assert Everybody.asked == [(3, 0.1)] * LOCAL["steps"]


def test_the_round_remembers_its_models(tmp_path: Path) -> None:
    prepared(tmp_path, patients=2, held_out=2)
    with State.create(tmp_path / "state") as state:
        here = begin(tmp_path, state)
        state_machine.advance(here, until="trained")
        before, after = (
            evaluations.brief(state, here.offer.ticket.model_sha256),
            evaluations.brief_of_trained(state, 1),
        )
        assert before is not None
        assert after is not None
        assert after["cases"] == before["cases"] == 2
        assert state.evaluation(sha256_of(here.checkpoint)) is not None
        zero, one = evaluations.rounds(state, here.offer.plan.federation)
        assert (zero.shared is not None, one.trained is not None, len(one.loss)) == (True, True, 2)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_layers_that_stay_at_home_belong_to_what_is_measured(tmp_path: Path, noise: float) -> None:
    """Without noise they are trained, and measured with the weights; under noise they stay as they were built."""
    prepared(tmp_path, patients=2, held_out=2)
    privacy = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": noise}
    with State.create(tmp_path / "state") as state:
        changes = {"algorithm": {"name": "personal", "keep": "head"}, "privacy": privacy}
        state_machine.advance(begin(tmp_path, state, changes), until="trained")
        assert [body["kind"] for body in state.evaluations().values()] == ["global", "trained"]
