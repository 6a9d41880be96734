import math

import pytest
import torch

from fedsite.errors import DataNotFit
from fedsite.tasks import networks, registry
from fedsite.training import devices, inference, loop, metrics, steps
from fedsite.training.sampling import PatchSampler

TASK = registry.get("stroke-dwi")


def trained(sampler, loss, count, name="sgd", rate=0.1):
    network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    optimizer = loop.make_optimizer(network, name, rate)
    step = steps.SupervisedStep(network, optimizer, loss, torch.device("cpu"))
    return network, loop.train(network, sampler, step, count)


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.1), ("adam", 0.02)])
def test_it_learns_a_blob(blob, sampler, task_loss, cpu, name, rate):
    network, record = trained(sampler, task_loss, 40, name, rate)
    assert sum(record.losses[-5:]) < 0.6 * sum(record.losses[:5])
    assert metrics.dice(inference.segment(network, TASK, blob.image, (32, 32, 32), cpu), blob.label) > 0.7


def test_twice_the_same_is_bit_equal(sampler, task_loss):
    first, second = (trained(sampler, task_loss, 4) for _ in range(2))
    assert first[1].losses == second[1].losses
    for one, two in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, two)


def test_another_seed_is_another_training(blob, task_loss):
    first, second = (trained(PatchSampler([blob], (16, 16, 16), 2, 0.67, seed), task_loss, 2) for seed in (1, 2))
    assert first[1].losses != second[1].losses


def test_no_steps_change_nothing(network, sampler):
    before = [parameter.clone() for parameter in network.parameters()]

    def step(batch):
        raise AssertionError("no step was asked for")

    record = loop.train(network, sampler, step, 0)
    assert record.losses == ()
    assert all(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))


def test_it_takes_any_sampler_and_step_and_reports_progress(network):
    seen, reported = [], []

    def step(batch):
        seen.append(batch)
        return 0.5

    record = loop.train(network, lambda number: number, step, 3, lambda done, total: reported.append((done, total)))
    assert seen == [0, 1, 2]
    assert reported == [(1, 3), (2, 3), (3, 3)]
    assert record.losses == (0.5, 0.5, 0.5)
    assert record.seconds >= 0
    assert network.training


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_and_names_the_step(network, bad):
    values = iter([1.0, bad, 1.0])
    with pytest.raises(DataNotFit, match="training step 2 of 3"):
        loop.train(network, lambda number: number, lambda batch: next(values), 3)


def test_a_nan_in_an_image_touches_no_weight(blob, network, task_loss, cpu):
    blob.image[:] = math.nan
    before = [parameter.clone() for parameter in network.parameters()]
    step = steps.SupervisedStep(network, loop.make_optimizer(network, "sgd", 0.1), task_loss, cpu)
    sampler = PatchSampler([blob], (16, 16, 16), 2, 0.67, seed=4)
    with pytest.raises(DataNotFit, match="training step 1 of 5"):
        loop.train(network, sampler, step, 5)
    assert all(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))


def test_the_step_is_sgd_with_momentum(task_loss, sampler, network, cpu):
    """The first two steps by hand: v = m v + g; w -= lr (g + m v) (Nesterov)."""
    rate, momentum = 0.05, 0.9
    copy = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    step = steps.SupervisedStep(network, loop.make_optimizer(network, "sgd", rate), task_loss, cpu)
    loop.train(network, sampler, step, 2)
    velocity = [torch.zeros_like(parameter) for parameter in copy.parameters()]
    for number in range(2):
        batch = sampler(number)
        gradients = torch.autograd.grad(task_loss(copy(batch.image), batch.label), list(copy.parameters()))
        with torch.no_grad():
            for parameter, speed, gradient in zip(copy.parameters(), velocity, gradients, strict=True):
                speed.mul_(momentum).add_(gradient)
                parameter.sub_(rate * (gradient + momentum * speed))
    for ours, expected in zip(network.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_device_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device().type == "cpu"
    assert devices.choose_device("cpu").type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize(("name", "settings"), [("unet", {"channels": [8, 16, 32]}), ("segresnet", {})])
def test_it_learns_a_blob_on_cuda(blob, task_loss, name, settings):
    device = devices.choose_device()
    network = networks.build(TASK, name, settings, seed=1).to(device)
    step = steps.SupervisedStep(network, loop.make_optimizer(network, "adam", 0.003), task_loss, device)
    loop.train(network, PatchSampler([blob], (32, 32, 32), 2, 0.67, seed=4), step, 60)
    assert metrics.dice(inference.segment(network, TASK, blob.image, (32, 32, 32), device), blob.label) > 0.8
