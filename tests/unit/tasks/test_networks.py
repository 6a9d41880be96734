import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsite.tasks import networks, registry
from fedsite.tasks.description import OutOfRange, Range

TASK = registry.get("stroke-dwi").narrowed(["dwi"])


def test_defaults_are_filled_in():
    assert networks.validate(TASK, "unet", {}) == {"channels": [16, 32, 64, 128], "num_res_units": 0, "affine": 0}
    assert networks.validate(TASK, "unet", {"num_res_units": 2})["num_res_units"] == 2
    assert networks.validate(TASK, "segresnet", {"init_filters": 8})["init_filters"] == 8


@pytest.mark.parametrize("description", TASK.networks, ids=lambda one: one.name)
def test_defaults_are_in_range(description):
    for key, allowed in description.settings.items():
        networks._checked(description.name, key, allowed, allowed.default)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("unet", {"channels": [16]}, "network.settings.channels.*2 to 6 whole numbers from 4 to 512"),
        ("unet", {"channels": [8] * 7}, "network.settings.channels"),
        ("unet", {"channels": [2, 4]}, "from 4 to 512"),
        ("unet", {"channels": [16, 1024]}, "from 4 to 512"),
        ("unet", {"channels": [16.0, 32.0]}, "whole numbers"),
        ("unet", {"channels": 16}, "network.settings.channels"),
        ("unet", {"channels": "16"}, "network.settings.channels"),
        ("unet", {"num_res_units": [1]}, "network.settings.num_res_units"),
        ("unet", {"num_res_units": 5}, "network.settings.num_res_units: 5 .*from 0 to 4"),
        ("unet", {"num_res_units": True}, "network.settings.num_res_units"),
        ("unet", {"num_res_units": float("nan")}, "network.settings.num_res_units"),
        ("segresnet", {"init_filters": 12}, "multiples of 8 from 8 to 64"),
        ("segresnet", {"blocks_down": [1, 9]}, "network.settings.blocks_down"),
        ("segresnet-ds", {"supervised_scales": 5}, "network.settings.supervised_scales: 5 .*from 1 to 4"),
        ("unet", {"chanels": [8, 16]}, "no such setting.*Did you mean channels?"),
        ("unet", {"norm": 1}, "Batch normalisation mixes"),
        ("segresnet", {"batch-norm": True}, "Batch normalisation mixes"),
        ("unnet", {}, "no network 'unnet'.*Did you mean unet?"),
    ],
)
def test_out_of_range_names_setting_and_range(name, settings, said):
    with pytest.raises(OutOfRange, match=said) as raised:
        networks.validate(TASK, name, settings)
    assert raised.value.exit_code == 76


@given(st.integers(-10, 20), st.integers(1, 4))
def test_a_range_takes_what_it_says(value, multiple):
    allowed = Range(0, 12, 4, multiple_of=multiple)
    assert networks._in_range(value, allowed) == (0 <= value <= 12 and value % multiple == 0)


@pytest.mark.parametrize(
    ("settings", "patch", "fits"),
    [
        ({}, (40, 40, 40), True),
        ({}, (16, 24, 32), True),
        ({"channels": [8, 16, 32, 64, 64]}, (40, 40, 40), False),
        ({"channels": [8, 16, 32, 64, 64]}, (48, 32, 32), True),
        ({"channels": [8, 16, 32, 64, 64]}, (48, 32, 16), False),
    ],
)
def test_a_patch_must_survive_the_halvings(settings, patch, fits):
    if fits:
        networks.check_patch(TASK, "unet", settings, patch)
        network = networks.build(TASK, "unet", settings).train()
        assert network(torch.zeros(1, 1, *patch)).shape == (1, 2, *patch)
    else:
        with pytest.raises(OutOfRange, match="multiple of 16"):
            networks.check_patch(TASK, "unet", settings, patch)


EXTREMES = [
    ("unet", {"channels": [4, 4]}),
    ("unet", {"channels": [8, 16, 16, 16], "num_res_units": 1}),
    ("unet", {"channels": [4, 8, 8, 8, 8, 8], "num_res_units": 4}),
    ("segresnet", {"init_filters": 8, "blocks_down": [1, 1]}),
    ("segresnet", {"init_filters": 16, "blocks_down": [1, 2, 2, 1]}),
    ("segresnet-ds", {"init_filters": 8, "blocks_down": [1, 1, 2], "supervised_scales": 4}),
]


@pytest.mark.parametrize(("name", "settings"), EXTREMES)
def test_no_network_normalises_over_the_batch(name, settings):
    network = networks.build(TASK, name, settings)
    assert not [module for module in network.modules() if isinstance(module, _BatchNorm)]
    assert all(tensor.dtype == torch.float32 for tensor in network.state_dict().values())
    assert list(network.state_dict()) == [key for key, _ in network.named_parameters()], "no buffers: all is learned"


@pytest.mark.parametrize(("name", "settings"), EXTREMES[:4])
def test_a_patient_is_seen_alone(name, settings):
    """The output for one image does not depend on its neighbours in the batch."""
    network = networks.build(TASK, name, settings).train()
    images = torch.randn(2, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = network(images)[:1]
        alone = network(images[:1])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_batch_normalisation_is_refused_with_the_reason():
    with pytest.raises(OutOfRange, match="1 is a BatchNorm3d: batch normalisation mixes"):
        networks.refuse_batch_normalisation(nn.Sequential(nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1)))
    with pytest.raises(OutOfRange, match="SyncBatchNorm"):
        networks.refuse_batch_normalisation(nn.Sequential(nn.SyncBatchNorm(1)))


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    assert torch.equal(torch.rand(3), expected)
    again = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    other = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=2)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two, _ in pairs)
    assert not all(torch.equal(one, three) for one, _, three in pairs)


def test_number_of_parameters():
    """The figures that plans and README quote."""

    def count(name, settings):
        return sum(parameter.numel() for parameter in networks.build(TASK, name, settings).parameters())

    assert count("unet", {"channels": [8, 16, 32, 64]}) == 122_192
    assert count("unet", {}) == 486_296
    assert count("segresnet", {"init_filters": 8}) == 1_176_186
