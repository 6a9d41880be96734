from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsite.tasks import networks, registry
from fedsite.tasks.stroke_dwi import loss
from fedsite.training.sampling import PatchSampler

TASK = registry.get("stroke-dwi").narrowed(["dwi"])


def stored_case(image, label, missing=()):
    """What the case store gives, without its files."""
    return SimpleNamespace(
        id="p-blob", image=image, label=label, missing=missing, foreground=lambda: np.flatnonzero(label)
    )


@pytest.fixture
def blob():
    """One easy case: a bright ball in noise, image [1, 32, 32, 32]."""
    grid = np.indices((32, 32, 32)) - np.array([12, 18, 15])[:, None, None, None]
    label = ((grid**2).sum(axis=0) < 36).astype(np.uint8)
    noise = np.random.default_rng(0).standard_normal(label.shape)
    return stored_case((noise + 4 * label)[None].astype(np.float16), label)


@pytest.fixture
def network():
    return networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)


@pytest.fixture
def sampler(blob):
    return PatchSampler([blob], (16, 16, 16), 2, 0.67, seed=4)


@pytest.fixture
def task_loss():
    return loss()


@pytest.fixture
def cpu():
    return torch.device("cpu")
