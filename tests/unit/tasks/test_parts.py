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


@pytest.mark.parametrize(
    ("name", "settings", "encoders", "decoders"),
    [
        ("unet", {"channels": [4, 8]}, 1, 0),
        ("unet", {"channels": [4, 8, 8, 4], "affine": 1, "num_res_units": 2}, 3, 2),
        ("segresnet", {"init_filters": 8, "blocks_down": [1, 2, 1]}, 3, 2),
        ("segresnet-ds", {"init_filters": 8, "blocks_down": [1, 2, 1], "supervised_scales": 2}, 3, 2),
    ],
)
def test_every_tensor_is_in_a_block(name: str, settings: dict, encoders: int, decoders: int) -> None:
    """Decoder and head are the same tensors as elsewhere; blocks of the encoder get narrower, of the decoder wider."""
    network = networks.build(TASK, name, settings)
    tensors = network.state_dict()
    found = parts.blocks(name, tensors)
    expected = {f"encoder {number}" for number in range(1, encoders + 1)} | {"head"}
    expected |= {f"decoder {number}" for number in range(1, decoders + 1)} | ({"bottom"} if name == "unet" else set())
    assert set(found.values()) == expected
    assert {key for key, block in found.items() if block == "head"} == part(network, name, "head")
    late = {key for key, block in found.items() if block == "head" or block.startswith("decoder")}
    assert late == part(network, name, "decoder")
    if name == "segresnet":
        widest = {block: max(tensors[key].shape[0] for key in found if found[key] == block) for block in expected}
        assert [widest[f"encoder {number}"] for number in (1, 2, 3)] == [8, 16, 32]
        assert [widest[f"decoder {number}"] for number in (1, 2)] == [16, 8]


def test_blocks_of_a_u_net_are_numbered_as_an_image_passes_them() -> None:
    names = ["model.0.a", "model.1.submodule.0.a", "model.1.submodule.1.submodule.0.a"]
    names += ["model.1.submodule.1.submodule.1.submodule.conv.a"]
    names += ["model.1.submodule.1.submodule.2.a", "model.1.submodule.2.a", "model.2.a", "first.weight"]
    assert list(parts.blocks("unet", names).values()) == (
        ["encoder 1", "encoder 2", "encoder 3", "bottom", "decoder 1", "decoder 2", "head", "other"]
    )
