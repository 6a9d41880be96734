import numpy as np
import pytest
import torch
from torch import nn

from fedsite.training import inference, metrics


class Threshold(nn.Module):
    """Label 1 where the image is above 2: what it says of a voxel does not depend on the window."""

    def forward(self, image):
        return torch.cat([2 - image, image - 2], dim=1)


def test_a_window_is_the_network_itself(network, blob, cpu):
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(blob.image.astype(np.float32))[None])
    expected = logits[0].argmax(dim=0).numpy()
    found = inference.segment(network, blob.image, (32, 32, 32), cpu)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("shape", [(33, 40, 21), (10, 50, 16), (7, 9, 8)])
def test_every_voxel_is_seen_whatever_the_size(shape, cpu):
    image = 4 * np.random.default_rng(1).random((1, *shape), dtype=np.float32)
    found = inference.segment(Threshold(), image, (16, 16, 16), cpu)
    assert np.array_equal(found, image[0] > 2)


def test_the_mode_is_left_as_it_was(network, blob, cpu):
    network.train()
    inference.segment(network, blob.image, (16, 16, 16), cpu)
    assert network.training
    network.eval()
    inference.segment(network, blob.image, (16, 16, 16), cpu)
    assert not network.training


def test_what_is_padded_is_dark(cpu):
    """Padding with zeros would be brighter than the air of a standardised image."""
    seen = []

    class Spy(nn.Module):
        def forward(self, image):
            seen.append(float(image.min()))
            seen.append(float(image.max()))
            return torch.zeros(len(image), 2, *image.shape[2:])

    inference.segment(Spy(), np.full((1, 8, 8, 8), -5.0, dtype=np.float16), (16, 16, 16), cpu)
    assert set(seen) == {-5.0}


def test_dice():
    one = np.zeros((4, 4, 4), dtype=np.uint8)
    one[0] = 1
    half = one.copy()
    half[0, :2] = 0
    none = np.zeros_like(one)
    assert metrics.dice(one, one) == 1
    assert metrics.dice(one, half) == metrics.dice(half, one) == pytest.approx(2 * 8 / (16 + 8))
    assert metrics.dice(one, 1 - one) == 0
    assert metrics.dice(none, none) == 1
    assert metrics.dice(none, one) == metrics.dice(one, none) == 0
    with pytest.raises(ValueError, match="shape"):
        metrics.dice(one, one[:2])
