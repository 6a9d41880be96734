"""FedProx, SCAFFOLD and FedAvgM where the right answer is known: quadratics, one weight vector, plain SGD."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsite.training import algorithms
from fedsite.wire.algorithms import next_control, next_model, next_server_control

RATE, STEPS = 0.1, 7
CURVATURES = np.array([[1.0, 4.0], [3.0, 0.5], [0.2, 2.0]])
TARGETS = np.array([[2.0, -1.0], [-3.0, 5.0], [9.0, 0.0]])
OPTIMUM = (CURVATURES * TARGETS).sum(axis=0) / CURVATURES.sum(axis=0)


class Weights(nn.Module):
    """A network that is its weights; a site's loss is sum_j a_j/2 (w_j - t_j)^2."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values, dtype=torch.float32))

    def values(self) -> np.ndarray:
        return self.weight.detach().double().numpy()


def descend(network: Weights, site: int, correction: algorithms.Correction | None = None, steps: int = STEPS) -> None:
    """Plain SGD on one site's loss."""
    curvature, target = (torch.tensor(values[site], dtype=torch.float32) for values in (CURVATURES, TARGETS))
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        (curvature / 2 * (network.weight - target) ** 2).sum().backward()
        if correction:
            correction(network)
        optimizer.step()


@pytest.mark.parametrize("mu", [0.0, 0.5, 3.0])
def test_fedprox_on_a_quadratic(mu: float) -> None:
    """w_K - w* = (1 - lr (a + mu))^K (w_0 - w*) with w* = (a t + mu w_0) / (a + mu)."""
    start = np.array([1.0, -2.0])
    network = Weights(start)
    descend(network, 0, algorithms.proximal(network, mu))
    a, t = CURVATURES[0], TARGETS[0]
    best = (a * t + mu * start) / (a + mu)
    np.testing.assert_allclose(network.values(), best + (1 - RATE * (a + mu)) ** STEPS * (start - best), rtol=1e-5)


def test_fedprox_pulls_towards_the_model_that_it_was_given() -> None:
    network = Weights(np.zeros(2))
    correction = algorithms.proximal(network, mu=2.0)
    with torch.no_grad():
        network.weight.add_(3.0)
    network.weight.grad = torch.ones(2)
    correction(network)
    assert network.weight.grad.tolist() == [7.0, 7.0]


def test_a_frozen_weight_is_left_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    algorithms.freeze(network, {"0.weight", "0.bias"})
    before = {name: values.clone() for name, values in network.state_dict().items()}
    corrections = [
        algorithms.proximal(network, 1.0),
        algorithms.controlled(network, None, {name: np.ones(v.shape) for name, v in before.items()}),
    ]
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=0.1)
    network(torch.ones(1, 2)).sum().backward()
    for correction in corrections:
        correction(network)
    optimizer.step()
    changed = {name for name, values in network.state_dict().items() if not torch.equal(values, before[name])}
    assert changed == {"1.weight", "1.bias"}


def train_together(rounds: int, *, with_controls: bool, sites: list[list[int]]) -> np.ndarray:
    """Rounds of FedAvg or SCAFFOLD; `sites` says who takes part in each (repeated)."""
    model, server, owns = np.zeros(2), np.zeros(2), [np.zeros(2) for _ in CURVATURES]
    met: set[int] = set()
    for number in range(rounds):
        present = sites[number % len(sites)]
        updates = []
        for site in present:
            network = Weights(model)
            correction = algorithms.controlled(network, {"weight": owns[site]}, {"weight": server})
            descend(network, site, correction if with_controls else None)
            updates.append(network.values() - model)
            owns[site] = next_control(owns[site], server, updates[-1], RATE * STEPS)
        before, met = len(met), met | set(present)
        server = next_server_control(
            server, sum(updates), RATE * STEPS, taking_part=len(present), known_before=before, known=len(met)
        )
        np.testing.assert_allclose(server, sum(owns) / len(met), atol=1e-9)
        model = next_model(model, np.mean(updates, axis=0))
    return model


def test_scaffold_finds_the_optimum_that_fedavg_misses() -> None:
    everyone = [[0, 1, 2]]
    assert np.abs(train_together(60, with_controls=False, sites=everyone) - OPTIMUM).max() > 0.2
    np.testing.assert_allclose(train_together(60, with_controls=True, sites=everyone), OPTIMUM, atol=1e-3)


def test_scaffold_finds_it_when_sites_take_turns() -> None:
    found = train_together(150, with_controls=True, sites=[[0, 1], [1, 2], [0, 2]])
    np.testing.assert_allclose(found, OPTIMUM, atol=1e-2)


def test_scaffold_is_the_papers_algorithm() -> None:
    """Karimireddy et al. 2020, algorithm 1 with option II, global step 1, in plain NumPy: two rounds, two of three."""
    x, c, owns = np.array([0.5, -0.5]), np.zeros(2), np.zeros((3, 2))
    ours, server, own = x.copy(), np.zeros(2), [None, None, None]
    for present in ([0, 1, 2], [0, 2]):
        moved, turned = [], []
        for i in present:
            y = x.copy()
            for _ in range(STEPS):
                y = y - RATE * (CURVATURES[i] * (y - TARGETS[i]) - owns[i] + c)
            new = owns[i] - c + (x - y) / (STEPS * RATE)
            moved.append(y - x)
            turned.append(new - owns[i])
            owns[i] = new
        x = x + np.mean(moved, axis=0)
        c = c + len(present) / 3 * np.mean(turned, axis=0)

        updates = []
        for i in present:
            network = Weights(ours)
            mine = None if own[i] is None else {"weight": own[i]}
            descend(network, i, algorithms.controlled(network, mine, {"weight": server}))
            updates.append(network.values() - ours)
            own[i] = next_control(0.0 if own[i] is None else own[i], server, updates[-1], STEPS * RATE)
        server = next_server_control(
            server, sum(updates), STEPS * RATE, taking_part=len(present), known_before=3, known=3
        )
        ours = next_model(ours, np.mean(updates, axis=0))
        np.testing.assert_allclose(ours, x, rtol=1e-5)
        np.testing.assert_allclose(server, c, rtol=1e-5)
    for i in range(3):
        np.testing.assert_allclose(own[i], owns[i], rtol=1e-5)


def test_the_leaders_controls_reach_every_process() -> None:
    """A process without the files corrects by what `share` brings: here as a broadcast would."""
    leader, follower = Weights(np.zeros(2)), Weights(np.zeros(2))
    brought: list[nn.Module] = []
    algorithms.controlled(leader, {"weight": np.ones(2)}, {"weight": np.array([3.0, 5.0])}, brought.append)

    def receive(drift: nn.Module) -> None:
        drift.load_state_dict(brought[0].state_dict())

    follower.weight.grad = torch.zeros(2)
    algorithms.controlled(follower, None, None, receive)(follower)
    assert follower.weight.grad.tolist() == [2.0, 4.0]


def test_server_momentum_is_hsus_recursion() -> None:
    """v <- b v + u, w <- w + v, with the velocity read from the last two models alone."""
    random = np.random.default_rng(0)
    w, v = random.normal(size=5), np.zeros(5)
    model, previous = w.copy(), None
    for _ in range(6):
        update = random.normal(size=5)
        v = 0.9 * v + update
        w = w + v
        model, previous = next_model(model, update, 0.9, previous), model
        np.testing.assert_allclose(model, w)


def test_without_momentum_it_is_the_mean() -> None:
    model, update = np.ones(3), np.arange(3.0)
    assert np.array_equal(next_model(model, update, 0.0, np.full(3, np.nan)), model + update)
