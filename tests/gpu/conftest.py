"""Where these tests compute: on a CUDA device, or where scripts/test_gpu says so, to try them out without one."""

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

VARIABLE = "FEDSITE_GPU_TESTS_ON"


@pytest.fixture(scope="session")
def device() -> "torch.device":
    """CUDA. A test that takes `cuda` besides has nothing to say on a CPU."""
    import torch

    if os.environ.get(VARIABLE) == "cpu":
        torch.set_num_threads(1)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here (scripts/test_gpu --device cpu tries these tests without one)")
    return torch.device("cuda", 0)


@pytest.fixture
def cuda(device: "torch.device") -> "torch.device":
    """For what only a GPU can show."""
    if device.type != "cuda":
        pytest.skip("only a GPU can show this")
    return device
