"""The training of a round on a GPU, part by part: precision, memory, checkpoints, inference, several processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.gpu_sizes import TASKS, cases_of, network_of, recipe_of, required, size_of, train

from fedsite.privacy.dpsgd import PrivateGradient, Settings
from fedsite.tasks import registry
from fedsite.training import inference, planning
from fedsite.training.devices import Precision
from fedsite.training.fit import Machine, fit
from fedsite.training.private import Private
from fedsite.training.sampling import PatchSampler
from fedsite.training.schedules import make_optimizer
from fedsite.training.steps import DeviceTooSmall, SupervisedStep

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_learned(name, device, record_property):
    """All that a round trains with, at the task's own size; what it takes goes into the table of scripts/test_gpu."""
    task = required(name)
    size = size_of(task, device)
    network = network_of(task, size)
    busy = []

    def progress(done, total, note=""):
        if device.type == "cuda" and done > 5:
            busy.append(torch.cuda.utilization(device))

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    record = train(task, size, Machine(device), network, progress)

    assert len(record.losses) == size.steps
    assert all(map(math.isfinite, record.losses))
    if device.type == "cuda":
        assert np.mean(record.losses[-5:]) < np.mean(record.losses[:5])
        assert next(network.parameters()).device == device
        record_property("peak memory", torch.cuda.max_memory_allocated(device) / 1e9)
        record_property("utilisation", float(np.mean(busy)))
    record_property("task", name)
    record_property("training", str(size))
    record_property("a step", record.seconds / size.steps)


def step_of(device, network=None, **settings):
    """A step of the smallest task, and a batch of four patches."""
    task = required("stroke-dwi")
    size = size_of(task, device)
    network = (network or network_of(task, size)).to(device)
    optimizer = make_optimizer(network, "sgd", 0.02)
    step = SupervisedStep(network, optimizer, registry.module(task.module).loss(), device, **settings)
    return step, PatchSampler(cases_of(task, size), size.patch, 4, 0.67, 4)(0)


def test_convolutions_compute_in_half_precision_and_the_loss_in_full(device):
    step, batch = step_of(device)
    seen = []
    convolution = next(one for one in step.network.modules() if isinstance(one, torch.nn.Conv3d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loss = step(batch)
    assert seen[0] == Precision.of(device).dtype
    assert device.type == "cpu" or seen[0] in (torch.bfloat16, torch.float16)
    assert loss.dtype == torch.float32
    assert {parameter.dtype for parameter in step.network.parameters()} == {torch.float32}


def test_half_precision_learns_what_full_precision_does(cuda):
    losses = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        step, batch = step_of(cuda, precision=Precision("cuda", dtype))
        losses[dtype] = [float(step(batch)) for _ in range(10)][-1]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.05)
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], rel=0.05)


def test_micro_batches_give_the_gradient_of_the_whole(device):
    gradients = []
    for micro_batch in (None, 1):
        step, batch = step_of(device, micro_batch=micro_batch, precision=Precision(device.type, torch.float32))
        step.gradients(batch)
        gradients.append(torch.cat([one.grad.flatten() for one in step.network.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max()))


def test_where_memory_runs_out_the_batch_is_halved_and_the_step_is_the_same(cuda):
    """The device is made to seem smaller: what one patch takes fits, what four take does not."""
    plain, batch = step_of(cuda)
    expected = float(plain(batch))
    small, _ = step_of(cuda)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(cuda)
    small.gradients(batch[:1])
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.6 * torch.cuda.max_memory_allocated(cuda) / total, cuda)
    try:
        assert float(small(batch)) == pytest.approx(expected, rel=1e-2)
        assert small.halvings > 0
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.05 * torch.cuda.memory_allocated(cuda) / total, cuda)
        with pytest.raises(DeviceTooSmall):
            small(batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)


def test_a_micro_batch_is_planned_that_fits(cuda):
    step, batch = step_of(cuda)
    before = [one.detach().clone() for one in step.network.parameters()]
    planning.plan(step, tuple(batch.image.shape[1:]), 4)
    assert 1 <= step.micro_batch <= 4
    assert all(torch.equal(one, two) for one, two in zip(before, step.network.parameters(), strict=True))


def test_a_compiled_network_learns_the_same(cuda):
    plain, batch = step_of(cuda, precision=Precision("cuda", torch.float32))
    compiled, _ = step_of(cuda, precision=Precision("cuda", torch.float32), compiled=True)
    assert [float(compiled(batch)) for _ in range(3)] == pytest.approx(
        [float(plain(batch)) for _ in range(3)], rel=1e-2
    )


@pytest.mark.parametrize("each", [1, 3])
def test_private_steps_clip_and_noise_on_the_host_what_the_device_computed(device, each):
    """Two patients in the first step, nobody in the second: what is left has the deviation that is charged."""
    task = required("stroke-dwi")
    size = size_of(task, device)

    def moved(noise, steps):
        network = network_of(task, size).to(device)
        before = torch.cat([one.detach().flatten() for one in network.parameters()])
        private = PrivateGradient(network, 3, Settings(0.5, noise, 2, 0.5), Drawn())
        given = Private(private, {"a": (0,), "b": (1, 2)})
        recipe = recipe_of(size, steps=steps, momentum=0.0, learning_rate=1.0, patches_per_patient=each)
        loss = registry.module(task.module).loss()
        fit(network, task, cases_of(task, size), loss, recipe, Machine(device), private=given)
        assert next(network.parameters()).device == device
        return (torch.cat([one.detach().flatten() for one in network.parameters()]) - before).cpu().double()

    clipped = moved(0.0, 1)
    assert 0 < float(torch.linalg.vector_norm(clipped)) <= 0.5 * (1 + 1e-3)
    noise = moved(2.0, 1) - clipped
    assert float(noise.std()) == pytest.approx(2.0 * 0.5 / 2, rel=6 / math.sqrt(2 * len(noise)))
    assert float(moved(2.0, 2).std()) > 1.3 * float(noise.std()), "an empty step is noised too"


class Drawn:
    """Both patients in the first step, nobody in the next."""

    def __init__(self):
        self.steps = iter([[0, 1], []])

    def included(self, count, rate):
        return next(self.steps)


class Cut(Exception):
    """The training is cut off."""


def test_a_training_that_was_cut_off_goes_on_and_ends_the_same(device, tmp_path: Path):
    task = required("stroke-dwi")
    size = size_of(task, device)
    machine = Machine(device, checkpoint=tmp_path / "kept.safetensors", checkpoint_seconds=0, purpose="test")
    whole, resumed = network_of(task, size), network_of(task, size)
    expected = train(task, size, Machine(device), whole)

    def cut(done, total, note=""):
        if done == total - 1:
            raise Cut

    with pytest.raises(Cut):
        train(task, size, machine, network_of(task, size), cut)
    record = train(task, size, machine, resumed)

    assert record.resumed > 0
    # On a GPU sums are not always taken in the same order.
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if device.type == "cuda" else {"rtol": 0.0, "atol": 0.0}
    np.testing.assert_allclose(record.losses, expected.losses, **tolerance)
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, two, **tolerance)


@pytest.mark.parametrize("name", ["stroke-dwi", "brain-tumour-mr"])
def test_inference_answers_as_on_a_cpu(name, device):
    task = required(name)
    size = size_of(task, device, "unet")
    network = network_of(task, size)
    image = cases_of(task, size, 1)[0].image
    on_cpu = inference.segment(network, task, image, size.patch, torch.device("cpu"))
    here = inference.segment(network.to(device), task, image, size.patch, device)
    assert (here == on_cpu).mean() > 0.98


def test_gpu_minutes_are_kept(device):
    from fedsite.training.stopping import MinutesSpent

    task = required("stroke-dwi")
    size = size_of(task, device)
    with pytest.raises(MinutesSpent):
        train(task, size, Machine(device, limit_seconds=0.0), network_of(task, size))


def test_a_recipe_with_everything(device):
    task = registry.get("stroke-dwi")
    size = size_of(task, device)
    changes = {"accumulation": 2, "schedule": "cosine", "channel_dropout": 0.5}
    assert recipe_of(size, **changes).accumulation == 2
    record = train(task, size, Machine(device), network_of(task, size), **changes)
    assert all(map(math.isfinite, record.losses))
