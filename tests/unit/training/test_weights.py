import numpy as np
import pytest
import torch

from fedsite.errors import ServerBrokeProtocol
from fedsite.tasks import networks, registry
from fedsite.training import weights

TASK = registry.get("stroke-dwi").narrowed(["dwi"])


def test_there_and_back(network):
    tensors = weights.export(network)
    assert list(tensors) == list(network.state_dict())
    other = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=99)
    weights.load(other, tensors)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_what_is_exported_and_loaded_is_a_copy(network):
    tensors = weights.export(network)
    kept = {name: values.copy() for name, values in tensors.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(np.array_equal(tensors[name], kept[name]) for name in kept)
    for values in tensors.values():
        values.flags.writeable = False
    weights.load(network, tensors)
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert all(np.array_equal(tensors[name], kept[name]) for name in kept)


@pytest.mark.parametrize("change", ["missing", "unknown", "misshapen"])
def test_another_networks_model_is_refused(network, change):
    tensors = weights.export(network)
    name = next(iter(tensors))
    if change == "missing":
        del tensors[name]
    elif change == "unknown":
        tensors["elsewhere"] = tensors[name]
    else:
        tensors[name] = tensors[name][None]
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(ServerBrokeProtocol, match="missing, unknown or misshapen"):
        weights.load(network, tensors)
    assert all(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))
