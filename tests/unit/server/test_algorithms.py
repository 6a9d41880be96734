"""What the server does for momentum and SCAFFOLD: the next model and the next control, from files and rows alone."""

import base64

import numpy as np
import pytest
from support.federation import tensors

from fedsite.errors import UsageError
from fedsite.server import federation as federations
from fedsite.server.exchange import participation
from fedsite.server.rounds import rounds
from fedsite.server.rounds.reports import models, round_report
from fedsite.server.store.storage import ControlRow
from fedsite.wire.messages import ParticipationRequest, Ticket
from fedsite.wire.payload import layout_of, tensors_of
from fedsite.wire.signing import TICKET, open_envelope, public_key

STEPS, RATE = 5, 0.1
SCAFFOLD = {
    "algorithm": "scaffold",
    "local": {"steps": STEPS, "patch_voxels": [16, 16, 16], "optimizer": "sgd", "momentum": 0.0, "learning_rate": RATE},
}
MOMENTUM = 0.9
ASK = ParticipationRequest(protocol=1, ledger_sequence=0)


def rules(enough: int) -> dict:
    return {"rounds": {"quorum": 1, "enough": enough, "deadline_seconds": 600}}


def tickets(bench) -> list[Ticket]:
    key = public_key(bench.federation.round_key)
    found = participation.tickets(bench.federation, 0).tickets
    return [open_envelope(envelope, Ticket, TICKET, [key]) for envelope in found]


def stored(bench, sha256: str) -> dict[str, np.ndarray]:
    return {
        name: values.astype(np.float64) for name, values in tensors_of(bench.federation.models.path(sha256)).items()
    }


def play(bench, number: int, sent: dict[str, int], encoding: str = "float32") -> None:
    """A round in which each site sends random tensors of a seed."""
    for site, seed in sent.items():
        bench.deliver(site, number, tensors(seed, scale=0.1), encoding=encoding)
    rounds.advance(bench.federation)


def mean_of(sent: dict[str, int], name: str) -> np.ndarray:
    return np.mean([tensors(seed, scale=0.1)[name] for seed in sent.values()], axis=0, dtype=np.float64)


def test_momentum_is_hsus_recursion_over_rounds_and_restarts(bench) -> None:
    sent = [{"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 6}]
    first = bench.open(count=3, server_momentum=MOMENTUM, **rules(2))
    expected = stored(bench, round_report(bench.federation, first)["model_sha256"])
    velocity = {name: np.zeros_like(values) for name, values in expected.items()}
    for number, seeds in enumerate(sent, start=first):
        play(bench, number, seeds)
        bench.federation = federations.open_federation(bench.federation.folder, bench.clock)  # as after a restart
        found = stored(bench, round_report(bench.federation, number)["result_sha256"])
        for name in expected:
            velocity[name] = MOMENTUM * velocity[name] + mean_of(seeds, name)
            expected[name] = expected[name] + velocity[name]
            np.testing.assert_allclose(found[name], expected[name], atol=2e-6)


def test_momentum_does_not_reach_over_from_another_series(bench) -> None:
    first = bench.open(count=1, server_momentum=MOMENTUM, **rules(1))
    play(bench, first, {"a": 1})
    second = bench.open(count=1, server_momentum=MOMENTUM, **rules(1))
    play(bench, second, {"a": 2})
    report = round_report(bench.federation, second)
    before, after = stored(bench, report["model_sha256"]), stored(bench, report["result_sha256"])
    for name in before:
        np.testing.assert_allclose(after[name], before[name] + tensors(2, scale=0.1)[name], atol=1e-6)


@pytest.mark.parametrize("encoding", ["float32", "float16"])
def test_the_control_is_the_mean_of_the_sites_controls(bench, encoding: str) -> None:
    """Each site's control by option II from what it sent; sites that come later bring zero. Three rounds."""
    sent = [{"a": 1, "b": 2}, {"a": 3, "c": 4}, {"b": 5, "c": 6}]
    first = bench.open(count=4, payload=encoding, **SCAFFOLD, **rules(2))
    assert tickets(bench)[0].control_sha256 is None
    shapes = {name: values.shape for name, values in tensors(0).items()}
    server = {name: np.zeros(shape) for name, shape in shapes.items()}
    own: dict[str, dict[str, np.ndarray]] = {}
    for number, seeds in enumerate(sent, start=first):
        play(bench, number, seeds, encoding)
        for site, seed in seeds.items():
            mine = own.get(site, {name: np.zeros(shape) for name, shape in shapes.items()})
            update = {name: values.astype(encoding) for name, values in tensors(seed, scale=0.1).items()}
            own[site] = {name: mine[name] - server[name] - update[name] / (STEPS * RATE) for name in shapes}
        server = {name: np.mean([control[name] for control in own.values()], axis=0) for name in shapes}
        digest = tickets(bench)[-1].control_sha256
        assert digest is not None
        for name, values in stored(bench, digest).items():
            np.testing.assert_allclose(values, server[name], atol=1e-6)
    control = bench.federation.models.path(digest)
    assert layout_of(control) == layout_of(bench.federation.models.path(tickets(bench)[-1].model_sha256))


def test_a_plan_of_scaffold_runs_once(bench) -> None:
    """Sites keep their controls by plan: a second series of it would begin with a zero that is not their mean."""
    same = {"expires": "2090-01-01T00:00:00Z", **rules(1)}
    for algorithm in ({}, {}, SCAFFOLD):
        play(bench, bench.open(**algorithm, **same), {"a": 1})
    with pytest.raises(UsageError, match="still hold their controls"):
        bench.open(**SCAFFOLD, **same)
    bench.open(plan="another", **SCAFFOLD, **same)


def test_a_control_is_no_model_of_the_federation(bench) -> None:
    first = bench.open(count=2, **SCAFFOLD, **rules(1))
    play(bench, first, {"a": 1})
    digest = tickets(bench)[-1].control_sha256
    assert digest not in {one["sha256"] for one in models(bench.federation)}
    with bench.federation.database.reading() as session:
        assert session.get(ControlRow, digest).round == first


def test_an_interrupted_round_makes_the_same_control(bench, monkeypatch) -> None:
    first = bench.open(count=3, **SCAFFOLD, **rules(1))
    play(bench, first, {"a": 1})
    made = []
    original = rounds.making.remember

    class PowerCutError(Exception):
        pass

    def cut(session: object, what: rounds.making.Made, *rest: object) -> None:
        made.append(what)
        raise PowerCutError

    monkeypatch.setattr(rounds.making, "remember", cut)
    with pytest.raises(PowerCutError):
        play(bench, first + 1, {"b": 2})
    monkeypatch.setattr(rounds.making, "remember", original)
    rounds.advance(bench.federation)
    assert tickets(bench)[-1].control_sha256 == made[0].control_sha256
    assert round_report(bench.federation, first + 1)["result_sha256"] == made[0].model_sha256


def test_without_an_algorithm_nothing_is_added(bench) -> None:
    """Plans and tickets of fedavg have the very bytes that an older site reads."""
    bench.open(count=2, **rules(1))
    play(bench, 1, {"a": 1})
    envelope = participation.participate(bench.federation, "b", ASK).plan
    text = base64.b64decode(envelope.payload) + b"".join(one.to_bytes() for one in tickets(bench))
    for word in (b"control_sha256", b"server_momentum", b'"momentum"'):
        assert word not in text
