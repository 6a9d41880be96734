import pytest
import torch

from fedsite.training import schedules


def parameters():
    return torch.nn.Linear(2, 2)


def test_a_constant_rate_stays():
    assert {schedules.learning_rate("constant", 0.3, 10, number) for number in range(10)} == {0.3}


def test_half_a_cosine():
    rates = [schedules.learning_rate("cosine", 2.0, 100, number) for number in range(100)]
    assert rates[0] == 2
    assert rates[25] == pytest.approx(1 + 2**-0.5)
    assert rates[50] == pytest.approx(1)
    assert 0 < rates[99] < 0.001
    assert rates == sorted(rates, reverse=True)


def test_the_optimiser_follows():
    optimizer = schedules.make_optimizer(parameters(), "sgd", 0.1)
    before_step = schedules.follow(optimizer, "cosine", 0.1, 4)
    before_step(2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.0, False)])
def test_sgd_has_the_plans_momentum(momentum, nesterov):
    group = schedules.make_optimizer(parameters(), "sgd", 0.1, momentum).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (momentum, nesterov)


def test_what_is_frozen_is_not_learned():
    network = parameters()
    network.bias.requires_grad_(False)
    (group,) = schedules.make_optimizer(network, "adam", 0.1).param_groups
    assert [one is network.weight for one in group["params"]] == [True]
