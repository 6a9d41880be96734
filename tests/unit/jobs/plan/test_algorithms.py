"""A plan's algorithm in a round's training: what is added to a gradient, what stays, what is frozen, what is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.federation import dp_sgd, plan
from support.site import Site, prepare_blobs

from fedsite.dataset import manifest
from fedsite.errors import ServerBrokeProtocol
from fedsite.files import sha256_of
from fedsite.jobs.models import initial
from fedsite.jobs.models.choice import Model, network_of
from fedsite.jobs.plan import algorithms
from fedsite.jobs.plan.algorithms import Carried
from fedsite.jobs.progress import silent
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import PreparedData
from fedsite.tasks.description import OutOfRange
from fedsite.wire import payload
from fedsite.wire.messages import parse
from fedsite.wire.plans import DpSgd, Plan

RATE = 0.05
SGD = {"patch_voxels": [16, 16, 16], "learning_rate": RATE, "optimizer": "sgd", "momentum": 0.0, "batch_size": 1}
KEY = {"id": "0" * 16, "ed25519": "0" * 64}
HEAD = {"name": "personal", "keep": "head"}
DECODER = {"name": "personal", "keep": "decoder"}
AFFINE = {"name": "unet", "settings": {"channels": [4, 8], "affine": 1}}

Tensors = dict[str, np.ndarray]


def asked(algorithm: Any, steps: int = 2, noise: float = 0.0, **changes: Any) -> Plan:
    privacy = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": noise}
    keys = {"round_key": KEY, "receipt_key": KEY}
    content = plan(local=SGD | {"steps": steps}, privacy=privacy, algorithm=algorithm, **changes) | keys
    return parse(Plan, json.dumps(content).encode())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    site = Site(tmp_path_factory.mktemp("site"))
    prepare_blobs(site, patients=2, size=24)
    return PreparedData(site.data, manifest.load(site.data), sha256_of(site.data / manifest.FILE_NAME))


@pytest.fixture
def train(data: PreparedData, tmp_path: Path) -> Callable[..., tuple[Tensors, Tensors]]:
    """Trains a round of a plan from its model 0; gives that model and the weights that would travel."""

    def run(asked: Plan, carried: Carried = algorithms.NOTHING) -> tuple[Tensors, Tensors]:
        initial.init(asked, tmp_path / "model", seed=0)
        local_work.train(asked, 3, tmp_path / "model", data, "cpu", tmp_path / "out", silent, carried=carried)
        return read(tmp_path / "model"), read(tmp_path / "out")

    return run


def read(path: Path) -> Tensors:
    return {name: np.array(values) for name, values in payload.tensors_of(path).items()}


def far(one: Tensors, two: Tensors) -> float:
    return float(np.sqrt(sum(((one[name] - two[name]) ** 2).sum() for name in one)))


def test_fedprox_holds_training_near_the_global_model(train: Callable[..., Any]) -> None:
    """The first step is FedAvg's; with mu lr = 1 the second begins where the first did: w2 = w0 - lr g(w1)."""
    start, one = train(asked("fedavg", steps=1))
    _, plain = train(asked("fedavg", steps=2))
    _, held = train(asked({"name": "fedprox", "mu": 1 / RATE}, steps=2))
    for name in start:
        np.testing.assert_allclose(held[name], start[name] + plain[name] - one[name], atol=2e-6)
    assert far(held, start) < far(plain, start)


def test_scaffold_turns_every_gradient(train: Callable[..., Any], tmp_path: Path) -> None:
    start, plain = train(asked("fedavg", steps=1))
    random = np.random.default_rng(0)
    own, server = ({name: random.normal(size=v.shape) for name, v in start.items()} for _ in range(2))
    payload.write_model(tmp_path / "own", own)
    payload.write_model(tmp_path / "server", server)
    _, turned = train(asked("scaffold", steps=1), Carried(tmp_path / "own", tmp_path / "server"))
    for name in start:
        np.testing.assert_allclose(turned[name], plain[name] - RATE * (server[name] - own[name]), atol=2e-6)
    _, without = train(asked("scaffold", steps=1))
    assert far(without, plain) == 0, "controls of zero change nothing"


@pytest.mark.parametrize(
    ("algorithm", "changes", "kept"),
    [
        ("fedbn", {"network": AFFINE}, 4),
        (HEAD, {}, 2),
        (DECODER, {}, 2),
    ],
)
def test_layers_stay_at_home(
    train: Callable[..., Any], tmp_path: Path, algorithm: Any, changes: dict[str, Any], kept: int
) -> None:
    """They are in no model and no update; without noise they learn, from one round to the next."""
    wanted = asked(algorithm, **changes)
    first, second = tmp_path / "first", tmp_path / "second"
    start, trained = train(wanted, Carried(layers=first))
    assert trained.keys() == start.keys()
    assert algorithms.at_home(wanted, start) == frozenset()
    layers = read(first)
    assert len(layers) == kept
    train(wanted, Carried(own=first, layers=second))
    assert far(read(second), layers) > 0


@pytest.mark.parametrize(("algorithm", "changes"), [("fedbn", {"network": AFFINE}), (HEAD, {})])
def test_under_noise_layers_at_home_are_frozen(
    train: Callable[..., Any], tmp_path: Path, algorithm: Any, changes: dict[str, Any]
) -> None:
    """What trains is exactly the network with those layers as they are built, and nothing of them is written."""
    from fedsite.tasks import networks
    from fedsite.training import algorithms as corrections

    private = asked(algorithm, noise=1.0, **changes)
    start, frozen = train(private, Carried(layers=tmp_path / "layers"))
    assert not (tmp_path / "layers").exists()
    assert far(start, frozen) > 0
    network = networks.build(algorithms.check(private), private.network.name, private.network.settings)
    kept = algorithms.at_home(private, network.state_dict())
    corrections.freeze(network, kept)
    assert {name for name, one in network.named_parameters() if not one.requires_grad} == kept
    _, learning = train(asked(algorithm, **changes), Carried(layers=tmp_path / "layers"))
    assert far(frozen, learning) > 0, "the rest learns beside frozen layers, not beside trained ones"


def test_at_home_the_model_is_used_with_its_own_layers(train: Callable[..., Any], tmp_path: Path) -> None:
    wanted = asked(HEAD)
    train(wanted, Carried(layers=tmp_path / "layers"))
    layers = read(tmp_path / "layers")
    at_home = Model(tmp_path / "model", "", wanted, "global", own=tmp_path / "layers")
    found = {name: values.numpy() for name, values in network_of(at_home).state_dict().items()}
    assert all(np.array_equal(found[name], values) for name, values in (read(tmp_path / "model") | layers).items())
    fresh = network_of(Model(tmp_path / "model", "", wanted, "global")).state_dict()
    assert not any(np.array_equal(fresh[name].numpy(), values) for name, values in layers.items())


def test_a_model_with_layers_that_stay_at_home_is_refused(data: PreparedData, tmp_path: Path) -> None:
    initial.init(asked("fedavg"), tmp_path / "whole", seed=0)
    with pytest.raises(ServerBrokeProtocol, match="stay at home under personal"):
        local_work.train(asked(HEAD), 3, tmp_path / "whole", data, "cpu", tmp_path / "out", silent)


def test_a_model_that_lacks_what_travels_is_refused(data: PreparedData, tmp_path: Path) -> None:
    initial.init(asked(HEAD), tmp_path / "part", seed=0)
    with pytest.raises(ServerBrokeProtocol, match="missing"):
        local_work.train(asked("fedavg"), 3, tmp_path / "part", data, "cpu", tmp_path / "out", silent)


def test_fedbn_needs_a_normalisation_with_weights() -> None:
    with pytest.raises(OutOfRange, match="no weights"):
        algorithms.check(asked("fedbn"))
    algorithms.check(asked("fedbn", network=AFFINE))


@pytest.mark.parametrize("wrong", ["shape", "nan", "half"])
def test_a_servers_control_is_checked(tmp_path: Path, wrong: str) -> None:
    model, control = {"a": np.ones((3, 2), np.float32)}, {"a": np.zeros((3, 2), np.float32)}
    payload.write_model(tmp_path / "model", model)
    payload.write_model(tmp_path / "good", control)
    algorithms.check_control(tmp_path / "good", tmp_path / "model")
    content = (tmp_path / "good").read_bytes()
    if wrong == "shape":
        payload.write_model(tmp_path / "bad", {"a": np.zeros((2, 3), np.float32)})
    elif wrong == "nan":
        payload.write_model(tmp_path / "bad", {"a": np.full((3, 2), np.nan, np.float32)})
    else:
        (tmp_path / "bad").write_bytes(content[:-4])
    with pytest.raises(ServerBrokeProtocol, match="control"):
        algorithms.check_control(tmp_path / "bad", tmp_path / "model")


@pytest.mark.parametrize(
    ("algorithm", "noise", "words"),
    [
        ("fedavg", 1.0, "all that leaves"),
        ({"name": "fedprox", "mu": 0.5}, 1.0, "mu 0.5: the added term looks at no patient"),
        ("scaffold", 1.0, "1 part signal to 100 parts noise"),
        ("scaffold", 0.0, "nothing more leaves"),
        (HEAD, 1.0, "the head never leaves this site; it is frozen under noise"),
        (DECODER, 0.0, "the decoder never leaves this site; it is trained here"),
    ],
)
def test_how_it_goes_with_the_mechanism_is_said(algorithm: Any, noise: float, words: str) -> None:
    assert words in algorithms.composition(asked(algorithm, noise=noise), 10_000)


def test_how_it_goes_with_private_steps_is_said() -> None:
    """The noise of a control is that of a mean over steps: 100 / (4 patients * sqrt(25 steps))."""
    update = asked("fedavg", steps=25)
    private = update.model_copy(update={"privacy": DpSgd.model_validate(dp_sgd(batch_patients=4))})
    assert algorithms.composition(private, 10_000) == (
        "fedavg: an update made of clipped and noised steps is all that leaves"
    )
    scaffold = private.model_copy(update={"algorithm": "scaffold"})
    assert "1 part signal to 5 parts noise" in algorithms.composition(scaffold, 10_000)
