from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsite.tasks import outputs, registry
from fedsite.tasks.description import Region
from fedsite.training import inference

TASK = registry.get("stroke-dwi").narrowed(["dwi"])
NESTED = replace(
    TASK, labels={0: "background", 1: "shell", 2: "core"}, regions=(Region("whole", (1, 2)), Region("core", (2,)))
)


class Threshold(nn.Module):
    """Label 1 where the image is above 2: what it says of a voxel does not depend on the window."""

    def forward(self, image):
        return torch.cat([2 - image, image - 2], dim=1)


class Spy(nn.Module):
    """Notes what it is shown, and finds nothing."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(image.clone())
        return torch.zeros(len(image), 2, *image.shape[2:])


def test_a_window_is_the_network_itself(network, blob, cpu):
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(blob.image.astype(np.float32))[None])[0]
    sure = inference.probabilities(network, TASK, blob.image, (32, 32, 32), cpu)
    assert sure.dtype == np.float32
    np.testing.assert_allclose(sure, logits.softmax(dim=0).numpy(), atol=1e-5)
    found = inference.segment(network, TASK, blob.image, (32, 32, 32), cpu)
    assert found.dtype == np.uint8
    assert np.array_equal(found, logits.argmax(dim=0).numpy())
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("shape", [(33, 40, 21), (10, 50, 16), (7, 9, 8)])
def test_every_voxel_is_seen_whatever_the_size(shape, cpu):
    image = 4 * np.random.default_rng(1).random((1, *shape), dtype=np.float32)
    found = inference.segment(Threshold(), TASK, image, (16, 16, 16), cpu)
    assert np.array_equal(found, image[0] > 2)


def test_regions_are_asked_one_by_one(cpu):
    """Each region has a sigmoid of its own, and its answer does not depend on the others'."""

    class TwoRegions(nn.Module):
        def forward(self, image):
            return torch.cat([image - 1, image - 3], dim=1)

    image = 4 * np.random.default_rng(2).random((1, 12, 16, 20), dtype=np.float32)
    sure = inference.probabilities(TwoRegions(), NESTED, image, (16, 16, 16), cpu)
    np.testing.assert_allclose(sure, 1 / (1 + np.exp(-np.concatenate([image - 1, image - 3]))), atol=1e-6)
    assert np.array_equal(outputs.labels(NESTED, sure), np.where(image > 3, 2, np.where(image > 1, 1, 0))[0])


def test_the_mode_is_left_as_it_was(network, blob, cpu):
    network.train()
    inference.segment(network, TASK, blob.image, (16, 16, 16), cpu)
    assert network.training
    network.eval()
    inference.segment(network, TASK, blob.image, (16, 16, 16), cpu)
    assert not network.training


def test_what_is_padded_is_dark_in_each_channel(cpu):
    """Padding with zeros would be brighter than the air of a standardised image; a missing channel is zeros."""
    spy = Spy()
    image = np.stack([np.full((8, 8, 8), -5.0), np.zeros((8, 8, 8))]).astype(np.float16)
    inference.segment(spy, TASK, image, (16, 16, 16), cpu)
    (window,) = spy.seen
    assert window.shape == (1, 2, 16, 16, 16)
    assert window[:, 0].unique().tolist() == [-5.0]
    assert window[:, 1].unique().tolist() == [0.0]


def test_only_a_few_windows_are_on_the_device_at_a_time(cpu):
    spy = Spy()
    inference.segment(spy, TASK, np.zeros((1, 40, 40, 40), np.float16), (16, 16, 16), cpu)
    assert len(spy.seen) > 10
    assert max(len(batch) for batch in spy.seen) == inference.WINDOWS_AT_ONCE
    assert {tuple(batch.shape[2:]) for batch in spy.seen} == {(16, 16, 16)}


def test_a_large_image_is_put_together_on_the_cpu(monkeypatch):
    """One channel and two outputs take six floats a voxel; of the free memory a quarter may be used."""
    free = 100 * 4 * 6 * 4
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    device = torch.device("cuda")
    assert inference._where_to_stitch(torch.empty(1, 99, 1, 1), 2, device) == device
    assert inference._where_to_stitch(torch.empty(1, 100, 1, 1), 2, device).type == "cpu"
    assert inference._where_to_stitch(torch.empty(1, 100, 1, 1), 2, torch.device("cpu")).type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("share", [0.25, 0.0])
def test_on_cuda_it_is_the_same_wherever_it_is_put_together(network, blob, cpu, monkeypatch, share):
    monkeypatch.setattr(inference, "_SHARE_OF_DEVICE", share)
    expected = inference.probabilities(network, TASK, blob.image, (16, 16, 16), cpu)
    device = torch.device("cuda")
    found = inference.probabilities(network.to(device), TASK, blob.image, (16, 16, 16), device)
    np.testing.assert_allclose(found, expected, atol=0.02)  # bfloat16 has 8 bits
