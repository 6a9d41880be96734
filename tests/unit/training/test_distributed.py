"""How a batch is shared out. Several processes at work: tests/integration/jobs/test_launch.py."""

import pytest
import torch

from fedsite.errors import ConfigurationError
from fedsite.training.distributed import Group


@pytest.mark.parametrize(("batch", "size"), [(2, 2), (3, 2), (7, 3), (8, 8)])
def test_every_patch_is_taken_once_and_shares_are_even(batch, size):
    taken = [range(batch)[Group(rank, size).share(batch)] for rank in range(size)]
    assert [patch for part in taken for patch in part] == list(range(batch))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert min(map(len, taken)) > 0


def test_more_processes_than_patches_are_refused():
    with pytest.raises(ConfigurationError, match="batch of 2 patches cannot be shared out among 3"):
        Group(0, 3).share(2)


def test_alone_nothing_is_added():
    group = Group()
    network = torch.nn.Linear(2, 1)

    def step(batch):
        return 0.5

    assert group.leads
    assert group.share(4) == slice(0, 4)
    assert group.reduction(4) is None
    assert group.whole(step, 4) is step
    group.same(network)
