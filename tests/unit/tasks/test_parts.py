"""The names of a network's parts, held to the networks that are built."""

import pytest
from torch import nn

from fedsite.tasks import networks, parts, registry
from fedsite.tasks.description import OutOfRange

TASK = registry.get("stroke-dwi").narrowed(["dwi"])
NETWORKS = [
    ("unet", {"channels": [4, 8], "affine": 1}),
    ("unet", {"channels": [4, 8, 8, 4], "affine": 1, "num_res_units": 2}),
    ("unet", {"channels": [4, 8, 8], "affine": 0}),
    ("segresnet", {"init_filters": 8, "blocks_down": [1, 2, 1]}),
    ("segresnet", {"init_filters": 8, "blocks_down": [1, 1]}),
    ("segresnet-ds", {"init_filters": 8, "blocks_down": [1, 2, 1], "supervised_scales": 2}),
]


def part(network: nn.Module, name: str, of: parts.Part) -> frozenset[str]:
    return parts.of(name, of, network.state_dict())


def test_every_network_of_a_task_has_its_parts() -> None:
    assert {description.name for description in TASK.networks} <= parts._NAMES.keys()


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_normalisation(name: str, settings: dict) -> None:
    network = networks.build(TASK, name, settings)
    expected = {
        f"{path}.{parameter}"
        for path, module in network.named_modules()
        if isinstance(module, nn.modules.instancenorm._InstanceNorm | nn.GroupNorm)
        for parameter, _ in module.named_parameters()
    }
    assert part(network, name, "normalisation") == expected
    if expected:
        parts.check(TASK, name, settings, "normalisation")
    else:
        with pytest.raises(OutOfRange, match="no weights"):
            parts.check(TASK, name, settings, "normalisation")


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_decoder_and_head(name: str, settings: dict) -> None:
    """Whatever comes after the deepest level; the head is what of it makes the outputs."""
    network = networks.build(TASK, name, settings)
    decoder, head = part(network, name, "decoder"), part(network, name, "head")
    last = list(network.state_dict())[-1]
    assert last in head <= decoder < network.state_dict().keys()
    if name != "unet":
        children = {"up_layers", "up_samples", "conv_final"}
        assert decoder == {key for key in network.state_dict() if key.split(".")[0] in children}
        return
    encoder, level = set(), network.model
    while isinstance(level, nn.Sequential) and hasattr(level[1], "submodule"):
        encoder |= {id(parameter) for parameter in level[0].parameters()}
        level = level[1].submodule
    encoder |= {id(parameter) for parameter in level.parameters()}
    expected = {key for key, parameter in network.named_parameters() if id(parameter) not in encoder}
    assert decoder == expected
    assert head == {key for key in expected if key.startswith("model.2.")}
