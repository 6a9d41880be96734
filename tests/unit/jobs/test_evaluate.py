from types import SimpleNamespace

import numpy as np
import pytest
from support.federation import draft

from fedsite.errors import DataNotFit, ServerBrokeProtocol
from fedsite.jobs.evaluate import evaluate
from fedsite.tasks import networks, registry
from fedsite.tasks.description import OutOfRange
from fedsite.training import weights
from fedsite.wire.payload import write_model


@pytest.fixture
def plan(tmp_path):
    return draft(tmp_path)


@pytest.fixture
def model(tmp_path, plan):
    """A model that calls everything lesion: the last layer's bias decides."""
    network = networks.build(registry.get(plan.task), plan.network.name, plan.network.settings)
    tensors = {name: np.zeros_like(values) for name, values in weights.export(network).items()}
    *_, bias = tensors
    tensors[bias][:] = [-1, 1]
    path = tmp_path / "model.safetensors"
    write_model(path, tensors)
    return path


def case(name, lesion):
    label = np.zeros((20, 18, 16), dtype=np.uint8)
    label[:lesion] = 1
    return SimpleNamespace(id=name, image=np.zeros((1, 20, 18, 16), dtype=np.float16), label=label)


def test_dice_of_each_case_and_their_mean(plan, model):
    reported = []
    cases = [case("p-one", 20), case("p-two", 5)]
    found = evaluate(model, plan, cases, "cpu", lambda done, total: reported.append((done, total)))
    assert found.dice == {"p-one": 1.0, "p-two": pytest.approx(2 * 5 / (20 + 5))}
    assert found.mean == pytest.approx((1 + 0.4) / 2)
    assert reported == [(1, 2), (2, 2)]


def test_no_case(plan, model):
    with pytest.raises(DataNotFit, match="no validation case"):
        evaluate(model, plan, [], "cpu")


def test_a_damaged_model(plan, model):
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    with pytest.raises(ServerBrokeProtocol, match="damaged"):
        evaluate(model, plan, [case("p-one", 3)], "cpu")


def test_a_model_of_another_network(tmp_path, model):
    other = draft(tmp_path, network={"name": "unet", "settings": {"channels": [4, 16]}})
    with pytest.raises(ServerBrokeProtocol, match="does not fit the plan's network"):
        evaluate(model, other, [case("p-one", 3)], "cpu")


def test_a_plan_outside_the_description(tmp_path, model):
    with pytest.raises(OutOfRange, match="no task 'stroke-dvi'"):
        evaluate(model, draft(tmp_path, task="stroke-dvi"), [case("p-one", 3)], "cpu")
