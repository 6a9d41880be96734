from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fedsite.errors import DeviceTooSmall, MinutesSpent
from fedsite.tasks import networks, registry
from fedsite.training import inference, metrics, planning
from fedsite.training.fit import Machine, Recipe, fit
from fedsite.training.sampling import PatchSampler
from fedsite.training.schedules import make_optimizer
from fedsite.training.steps import SupervisedStep

TASK = registry.get("stroke-dwi").narrowed(["dwi"])
RECIPE = Recipe(
    steps=4,
    batch_size=2,
    patch_voxels=(16, 16, 16),
    optimizer="adam",
    learning_rate=0.02,
    foreground_fraction=0.67,
    seed=4,
)


@pytest.fixture
def fitted(blob, task_loss, cpu):
    def run(recipe=RECIPE, machine=None, loss=task_loss, **options):
        network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
        record = fit(network, TASK, [blob], loss, recipe, machine or Machine(cpu), **options)
        return SimpleNamespace(network=network, record=record)

    return run


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True))


def close(one, two):
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_it_learns(fitted, blob, cpu):
    run = fitted(replace(RECIPE, steps=40, schedule="cosine"))
    assert metrics.dice(inference.segment(run.network, TASK, blob.image, (32, 32, 32), cpu), blob.label) > 0.7
    assert run.record.events == ()


def test_it_is_the_loop_with_its_sampler_and_step(fitted, blob, task_loss, cpu):
    network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    step = SupervisedStep(network, make_optimizer(network, "adam", 0.02), task_loss, cpu)
    step.use_layout(planning.CPU_LAYOUT)
    sampler = PatchSampler([blob], (16, 16, 16), 2, 0.67, seed=4)
    for number in range(4):
        step(sampler(number))
    assert same(fitted(), SimpleNamespace(network=network))


def test_accumulation_is_a_larger_batch(fitted):
    large = fitted(replace(RECIPE, batch_size=6, optimizer="sgd"))
    close(fitted(replace(RECIPE, batch_size=2, accumulation=3, optimizer="sgd")), large)
    assert not same(fitted(replace(RECIPE, optimizer="sgd")), large)


def test_the_schedule_and_the_momentum_are_the_plans(fitted):
    constant = fitted()
    assert not same(fitted(replace(RECIPE, schedule="cosine")), constant)
    assert not same(fitted(replace(RECIPE, optimizer="sgd", momentum=0.0)), fitted(replace(RECIPE, optimizer="sgd")))


def test_a_correction_reaches_the_gradient(fitted):
    def still(network):
        for parameter in network.parameters():
            parameter.grad.zero_()

    begun = SimpleNamespace(network=networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1))
    assert same(fitted(replace(RECIPE, optimizer="sgd"), correction=still), begun)


@pytest.mark.fault(
    part="training",
    what="the GPU's memory runs out",
    where="an out-of-memory error in a step",
    promised="the batch is halved, the steps and the weights are the same, the record says so",
)
def test_memory_that_runs_out_is_recorded_and_the_training_is_the_same(fitted, task_loss):
    left = [1]

    def tight(logits, label):
        if len(logits) > 1 and left and left.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return task_loss(logits, label)

    recipe = replace(RECIPE, optimizer="sgd", steps=2)
    found = fitted(recipe, loss=tight)
    assert found.record.events == ("out of memory: micro-batch halved 1 times, to 1",)
    close(found, fitted(recipe))


def test_a_patch_that_never_fits_is_named(fitted):
    def never(logits, label):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceTooSmall):
        fitted(loss=never)


def test_minutes_spent_keep_the_training_for_more_of_them(fitted, cpu, tmp_path):
    machine = Machine(cpu, checkpoint=tmp_path / "kept", checkpoint_seconds=1e9, purpose="a")

    def stop_after_two(done, total, note):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(machine=replace(machine, checkpoint_seconds=0), progress=stop_after_two)
    with pytest.raises(MinutesSpent, match="after 2 of 4 steps"):
        fitted(machine=replace(machine, limit_seconds=1e-9))
    assert (tmp_path / "kept").exists()
    ended = fitted(machine=machine)
    assert ended.record.resumed == 2
    assert same(ended, fitted())


def test_validation_stops_it(fitted):
    scores = iter([0.5, 0.4, 0.3])
    run = fitted(replace(RECIPE, early_stop=(1, 2)), validate=lambda: next(scores))
    assert len(run.record.losses) == 3
    assert same(run, fitted(replace(RECIPE, steps=1)))


def test_what_is_compiled_is_the_same_network(fitted, cpu, monkeypatch):
    """torch.compile itself is torch's; that its result is used, and weights keep their names, is ours."""
    built = []

    def compiled(network):
        built.append(network)
        return network.forward

    monkeypatch.setattr(torch, "compile", compiled)
    run = fitted(machine=Machine(cpu, compiled=True))
    assert built == [run.network]
    assert same(run, fitted())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("compiled", [False, True])
def test_it_learns_on_cuda(blob, task_loss, compiled):
    device = torch.device("cuda")
    network = networks.build(TASK, "unet", {"channels": [8, 16, 32]}, seed=1)
    notes = []
    fit(
        network,
        TASK,
        [blob],
        task_loss,
        replace(RECIPE, steps=80, patch_voxels=(32, 32, 32), learning_rate=0.005),
        Machine(device, compiled=compiled),
        lambda done, total, note: notes.append(note),
    )
    assert metrics.dice(inference.segment(network, TASK, blob.image, (32, 32, 32), device), blob.label) > 0.7
    assert "GPU" in notes[-1]
