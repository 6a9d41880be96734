"""FedAdam over rounds, restarts and power cuts: its moments are files, and the same updates give the same bytes."""

import numpy as np
import pytest
from sqlalchemy import select
from support.federation import tensors

from fedsite.server import federation as federations
from fedsite.server.rounds import rounds
from fedsite.server.rounds.reports import models, round_report
from fedsite.server.rows import round_of
from fedsite.server.store.storage import MomentsRow
from fedsite.wire.payload import layout_of, tensors_of

ADAM = {"learning_rate": 0.05, "beta1": 0.8, "beta2": 0.9, "tau": 0.01}
RULES = {"server_adam": ADAM, "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600}}
SENT = [{"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 6}]


def play(bench, number: int, sent: dict[str, int]) -> None:
    for site, seed in sent.items():
        bench.deliver(site, number, tensors(seed, scale=0.1))
    rounds.advance(bench.federation)


def stored(bench, sha256: str) -> dict[str, np.ndarray]:
    found = tensors_of(bench.federation.models.path(sha256))
    return {name: values.astype(np.float64) for name, values in found.items()}


def moments(bench) -> list[MomentsRow]:
    with bench.federation.database.reading() as session:
        return list(session.scalars(select(MomentsRow).order_by(MomentsRow.round)))


def files(bench) -> set[str]:
    return {path.name for path in (bench.federation.folder / "models").iterdir()}


def test_it_is_reddis_recursion_over_rounds_and_restarts(bench) -> None:
    first = bench.open(count=3, **RULES)
    model = stored(bench, round_report(bench.federation, first)["model_sha256"])
    mean = {name: np.zeros_like(values) for name, values in model.items()}
    square = {name: np.full_like(values, ADAM["tau"] ** 2) for name, values in model.items()}
    for number, seeds in enumerate(SENT, start=first):
        play(bench, number, seeds)
        bench.federation = federations.open_federation(bench.federation.folder, bench.clock)  # as after a restart
        found = stored(bench, round_report(bench.federation, number)["result_sha256"])
        [row] = moments(bench)
        kept = stored(bench, row.first_sha256), stored(bench, row.second_sha256)
        for name in model:
            update = np.mean([tensors(seed, scale=0.1)[name] for seed in seeds.values()], axis=0, dtype=np.float64)
            mean[name] = 0.8 * mean[name] + 0.2 * update
            square[name] = 0.9 * square[name] + 0.1 * update**2
            model[name] = model[name] + 0.05 * mean[name] / (np.sqrt(square[name]) + 0.01)
            np.testing.assert_allclose(found[name], model[name], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(kept[0][name], mean[name], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(kept[1][name], square[name], rtol=1e-5, atol=1e-9)


def test_old_moments_are_removed_and_those_of_each_series_stay(bench) -> None:
    first = bench.open(count=2, **RULES)
    for number, seeds in enumerate(SENT[:2], start=first):
        play(bench, number, seeds)
    other = bench.open(count=1, plan="another", **RULES)
    play(bench, other, SENT[2])
    rows = moments(bench)
    assert [row.round for row in rows] == [first + 1, other]
    needed = {sha256 for row in rows for sha256 in (row.first_sha256, row.second_sha256)}
    known = {one["sha256"] for one in models(bench.federation)}
    assert files(bench) == needed | known
    assert not needed & known, "moments are no models of the federation"
    [sha256, *_] = needed
    sizes = {layout_of(bench.federation.models.path(one)) for one in needed | known}
    assert len(sizes) == 1, f"{sha256} has the model's form"


def test_what_the_next_round_needs_is_not_removed_with_what_was_the_same_before(bench) -> None:
    """Updates of zeros: the first moment is the same file in every round."""
    zeros = {name: np.zeros_like(values) for name, values in tensors().items()}
    first = bench.open(count=3, **RULES)
    for number in range(first, first + 3):
        for site in ("a", "b"):
            bench.deliver(site, number, zeros)
        rounds.advance(bench.federation)
        [row] = moments(bench)
        assert {row.first_sha256, row.second_sha256} <= files(bench)


def test_moments_that_are_a_models_bytes_stay_as_the_model(bench, monkeypatch) -> None:
    """A zero model and updates of zeros: the first moment is the model's file."""
    zeros = {name: np.zeros_like(values) for name, values in tensors().items()}
    with monkeypatch.context() as patch:
        patch.setattr("support.federation.tensors", lambda *_: zeros)
        first = bench.open(count=2, **RULES)
    for site in ("a", "b"):
        bench.deliver(site, first, zeros)
    rounds.advance(bench.federation)
    [row] = moments(bench)
    assert row.first_sha256 == round_report(bench.federation, first)["model_sha256"]
    play(bench, first + 1, SENT[0])
    assert [one.round for one in moments(bench)] == [first + 1]
    assert row.first_sha256 in files(bench)
    assert row.second_sha256 not in files(bench)


def test_a_series_begins_with_fresh_moments(bench) -> None:
    first = bench.open(count=1, **RULES)
    play(bench, first, SENT[0])
    model = bench.federation.models.path(round_report(bench.federation, first)["model_sha256"])
    result = round_report(bench.federation, first)["result_sha256"]
    again = bench.open(count=1, **RULES)
    assert round_report(bench.federation, again)["model_sha256"] == model.name
    play(bench, again, SENT[0])
    assert round_report(bench.federation, again)["result_sha256"] == result


@pytest.mark.parametrize("after", ["files", "row"])
def test_an_interrupted_round_makes_the_same_bytes(bench, monkeypatch, after: str) -> None:
    first = bench.open(count=3, **RULES)
    play(bench, first, SENT[0])
    made = []
    original, tidied = rounds.making.remember, rounds.making.tidy

    class PowerCutError(Exception):
        pass

    def cut(*args: object) -> None:
        made.append(next((one for one in args if isinstance(one, rounds.making.Made)), None))
        raise PowerCutError

    if after == "files":
        monkeypatch.setattr(rounds.making, "remember", cut)
    else:
        monkeypatch.setattr(rounds.making, "tidy", cut)
    with pytest.raises(PowerCutError):
        play(bench, first + 1, SENT[1])
    monkeypatch.setattr(rounds.making, "remember", original)
    monkeypatch.setattr(rounds.making, "tidy", tidied)
    rounds.advance(bench.federation)
    if after == "files":
        row = moments(bench)[-1]
        again = round_report(bench.federation, first + 1)["result_sha256"], (row.first_sha256, row.second_sha256)
        assert again == (made[0].model_sha256, made[0].moments)
    play(bench, first + 2, SENT[2])
    assert [row.round for row in moments(bench)] == [first + 2]


def test_scaffold_and_adam_go_together(bench) -> None:
    """The control is made of the mean of the updates, whatever step the server then takes."""
    local = {"steps": 5, "patch_voxels": [16, 16, 16], "optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.1}
    first = bench.open(count=2, algorithm="scaffold", local=local, **RULES)
    play(bench, first, SENT[0])
    assert len(moments(bench)) == 1
    with bench.federation.database.reading() as session:
        control = round_of(session, first).control_sha256
    assert control is not None
    for name, values in tensors_of(bench.federation.models.path(control)).items():
        update = np.mean([tensors(seed, scale=0.1)[name] for seed in (1, 2)], axis=0, dtype=np.float64)
        np.testing.assert_allclose(values, -update / 0.5, atol=1e-6)
