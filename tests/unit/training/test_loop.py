import math
import threading
from types import SimpleNamespace

import pytest
import torch

from fedsite.errors import CannotWrite, DataNotFit, MinutesSpent
from fedsite.tasks import networks, registry
from fedsite.training import inference, loop, metrics
from fedsite.training.batches import Batch
from fedsite.training.sampling import PatchSampler
from fedsite.training.schedules import make_optimizer
from fedsite.training.steps import SupervisedStep
from fedsite.training.stopping import EarlyStop, TimeLimit

TASK = registry.get("stroke-dwi").narrowed(["dwi"])


def trained(sampler, loss, count, name="sgd", rate=0.1):
    network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    step = SupervisedStep(network, make_optimizer(network, name, rate), loss, torch.device("cpu"))
    return network, loop.train(network, sampler, step, count)


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.1), ("adam", 0.02)])
def test_it_learns_a_blob(blob, sampler, task_loss, cpu, name, rate):
    network, record = trained(sampler, task_loss, 40, name, rate)
    assert sum(record.losses[-5:]) < 0.6 * sum(record.losses[:5])
    assert metrics.dice(inference.segment(network, TASK, blob.image, (32, 32, 32), cpu), blob.label) > 0.7


def test_twice_the_same_is_bit_equal(sampler, task_loss):
    first, second = (trained(sampler, task_loss, 4) for _ in range(2))
    assert first[1].losses == second[1].losses
    assert same_weights(first[0], second[0])


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
    seen, reported, called = [], [], []

    def step(batch):
        seen.append(batch)
        return 0.5

    def progress(done, total, note):
        reported.append((done, total, note))

    record = loop.train(network, lambda number: number, step, 3, progress, before_step=called.append)
    assert seen == called == [0, 1, 2]
    assert reported == [(1, 3, "loss 0.500"), (2, 3, "loss 0.500"), (3, 3, "loss 0.500")]
    assert record.losses == (0.5, 0.5, 0.5)
    assert record.seconds >= 0
    assert network.training


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_and_names_the_step(network, bad):
    values = iter([1.0, bad, 1.0])
    with pytest.raises(DataNotFit, match="training step 2;"):
        loop.train(network, lambda number: number, lambda batch: next(values), 3)
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


class OnAGpu(torch.Tensor):
    """A tensor whose value is elsewhere: the host would wait for it."""

    @property
    def device(self):
        return torch.device("cuda")


@pytest.fixture
def reads(monkeypatch):
    """How many losses were fetched at a time."""
    counts, stack = [], torch.stack

    def counted(values):
        counts.append(len(values))
        return stack([value.as_subclass(torch.Tensor) for value in values])

    monkeypatch.setattr(torch, "stack", counted)
    return counts


def test_losses_on_a_gpu_are_read_a_few_at_a_time(reads):
    losses = loop.Losses([])
    for number in range(40):
        losses.add(torch.tensor(float(number)).as_subclass(OnAGpu))
    assert reads == [loop.READ_EVERY, loop.READ_EVERY]
    losses.read()
    assert reads == [loop.READ_EVERY, loop.READ_EVERY, 8]
    assert losses.values == list(range(40))


def test_a_nan_on_a_gpu_stops_before_the_training_ends(network, reads):
    values = iter([1.0, math.nan, 1.0])
    with pytest.raises(DataNotFit, match="training step 2;"):
        loop.train(network, lambda number: number, lambda batch: torch.tensor(next(values)).as_subclass(OnAGpu), 3)
    assert reads == [3]


def test_a_nan_in_an_image_is_named(blob, network, task_loss, cpu):
    blob.image[:] = math.nan
    step = SupervisedStep(network, make_optimizer(network, "sgd", 0.1), task_loss, cpu)
    sampler = PatchSampler([blob], (16, 16, 16), 2, 0.67, seed=4)
    with pytest.raises(DataNotFit, match="training step 1;"):
        loop.train(network, sampler, step, 5)


def test_what_goes_wrong_in_the_sampler_is_raised(network):
    def sampler(number):
        if number == 2:
            raise DataNotFit("The case p-1 is damaged.")
        return number

    with pytest.raises(DataNotFit, match="damaged"):
        loop.train(network, sampler, lambda batch: 1.0, 5)


def test_the_step_is_sgd_with_momentum(task_loss, sampler, network, cpu):
    """The first two steps by hand: v = m v + g; w -= lr (g + m v) (Nesterov)."""
    rate, momentum = 0.05, 0.9
    copy = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    step = SupervisedStep(network, make_optimizer(network, "sgd", rate), task_loss, cpu)
    plain = [Batch(batch.image.float(), batch.label) for batch in (sampler(0), sampler(1))]
    loop.train(network, lambda number: plain[number], step, 2)
    velocity = [torch.zeros_like(parameter) for parameter in copy.parameters()]
    for batch in plain:
        gradients = torch.autograd.grad(task_loss(copy(batch.image), batch.label), list(copy.parameters()))
        with torch.no_grad():
            for parameter, speed, gradient in zip(copy.parameters(), velocity, gradients, strict=True):
                speed.mul_(momentum).add_(gradient)
                parameter.sub_(rate * (gradient + momentum * speed))
    for ours, expected in zip(network.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


class Kept:
    """Checkpoints that remember when they were asked to keep what."""

    def __init__(self, known=(), seconds=0.0, error=None):
        self.start, self.error, self.kept, self.due = (list(known), seconds), error, [], True

    def resume(self):
        return self.start

    def keep(self, losses, seconds):
        if self.error:
            raise self.error
        self.kept.append(len(losses))


def test_it_goes_on_where_it_was_kept(network):
    seen = []
    kept = Kept(known=[0.1, 0.2], seconds=30.0)
    record = loop.train(network, lambda number: number, lambda batch: seen.append(batch) or 1.0, 4, checkpoints=kept)
    assert seen == [2, 3]
    assert record.losses == (0.1, 0.2, 1.0, 1.0)
    assert record.resumed == 2
    assert record.seconds > 30
    assert kept.kept == [3, 4]


@pytest.mark.fault(
    part="training",
    what="the disk is full when a checkpoint is due",
    where="the checkpoint's write",
    promised="the training goes on and says so; the checkpoint before is whole",
)
def test_a_full_disk_is_told_and_the_training_goes_on(network):
    kept = Kept(error=CannotWrite("Cannot write in /state: No space left on device."))
    record = loop.train(network, lambda number: number, lambda batch: 1.0, 2, checkpoints=kept)
    assert record.losses == (1.0, 1.0)
    assert record.events == tuple(
        f"no checkpoint after step {done}: Cannot write in /state: No space left on device." for done in (1, 2)
    )


def test_weights_of_a_loss_that_is_no_number_are_never_kept(network, reads):
    """On a GPU it is noticed late: a checkpoint looks first."""
    kept = Kept()
    with pytest.raises(DataNotFit):
        loop.train(
            network,
            lambda number: number,
            lambda batch: torch.tensor(math.nan).as_subclass(OnAGpu),
            3,
            checkpoints=kept,
        )
    assert kept.kept == []


def test_spent_minutes_stop_it_and_keep_it(network):
    kept = Kept(known=[1.0], seconds=90.0)
    with pytest.raises(MinutesSpent, match=r"after 1 of 3 steps: the round's 1\.5 minutes") as caught:
        loop.train(network, lambda number: number, lambda batch: 1.0, 3, checkpoints=kept, limit=TimeLimit(90))
    assert kept.kept == [1]
    assert (caught.value.code, caught.value.exit_code) == ("gpu-minutes-spent", 80)
    record = loop.train(network, lambda number: number, lambda batch: 1.0, 3, checkpoints=kept, limit=TimeLimit(900))
    assert len(record.losses) == 3


def test_minutes_that_end_with_the_last_step_spend_nothing(network):
    kept = Kept(known=[1.0, 1.0], seconds=1e6)
    assert loop.train(network, lambda number: number, lambda batch: 1.0, 2, checkpoints=kept, limit=TimeLimit(1)).losses


@pytest.fixture
def moving():
    """A network whose one weight is the number of steps taken."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)

    def step(batch):
        network.weight.data += 1
        return 1.0

    return SimpleNamespace(network=network, step=step)


def test_validation_that_no_longer_gains_ends_it_with_the_best_weights(moving):
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    stop = EarlyStop(moving.network, lambda: next(scores), every=2, patience=2)
    record = loop.train(moving.network, lambda number: number, moving.step, 100, early_stop=stop)
    assert len(record.losses) == 8
    assert record.scores == (0.5, 0.7, 0.6, 0.7)
    assert record.events == ("stopped after step 8: validation no longer gained",)
    assert moving.network.weight.item() == 4


def test_validation_that_gains_to_the_end_keeps_the_last_measured(moving):
    stop = EarlyStop(moving.network, lambda: moving.network.weight.item(), every=2, patience=1)
    record = loop.train(moving.network, lambda number: number, moving.step, 5, early_stop=stop)
    assert record.scores == (2, 4)
    assert record.events == ()
    assert moving.network.weight.item() == 4


def test_a_summary_is_small_and_true():
    losses = tuple(float(number) for number in range(1000))
    summary = loop.TrainingRecord(losses, 12.345, scores=(0.123456,), events=("e",)).summary(points=100)
    assert summary["steps"] == 1000
    assert summary["steps_a_point"] == 10
    assert summary["loss"][:2] == [4.5, 14.5]
    assert len(summary["loss"]) == 100
    assert (summary["seconds"], summary["scores"], summary["events"]) == (12.3, [0.12346], ["e"])
    assert loop.TrainingRecord((), 0.0).summary()["loss"] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize(("name", "settings"), [("unet", {"channels": [8, 16, 32]}), ("segresnet", {})])
def test_it_learns_a_blob_on_cuda(blob, task_loss, name, settings):
    device = torch.device("cuda")
    network = networks.build(TASK, name, settings, seed=1).to(device)
    step = SupervisedStep(network, make_optimizer(network, "adam", 0.003), task_loss, device)
    loop.train(network, PatchSampler([blob], (32, 32, 32), 2, 0.67, seed=4), step, 60)
    assert metrics.dice(inference.segment(network, TASK, blob.image, (32, 32, 32), device), blob.label) > 0.8
