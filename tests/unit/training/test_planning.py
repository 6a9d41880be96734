import pytest
import torch

from fedsite.training import planning
from fedsite.training.schedules import make_optimizer
from fedsite.training.steps import SupervisedStep


def linear(base, each):
    return lambda patches: base + each * patches


@pytest.mark.parametrize(
    ("largest", "free", "expected"),
    [(8, 10_000, 8), (8, 1000, 8), (8, 700, 5), (8, 400, 2), (8, 100, 1), (1, 0, 1), (2, 334, 2), (2, 300, 1)],
)
def test_as_many_as_fit_into_nine_tenths(largest, free, expected):
    assert planning.fitting(largest, linear(100, 100), free) == expected


def test_what_does_not_fit_twice_is_taken_one_by_one():
    def peak(patches):
        if patches > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 10

    assert planning.fitting(8, peak, 1000) == 1


def test_no_more_than_two_patches_are_tried():
    tried = []
    planning.fitting(64, lambda patches: tried.append(patches) or 100 * patches, 10_000)
    assert tried == [1, 2]


def test_the_faster_layout_is_taken_and_leaves_weights_alone(network, task_loss, cpu, monkeypatch):
    before = [parameter.detach().clone() for parameter in network.parameters()]
    step = SupervisedStep(network, make_optimizer(network, "sgd", 0.1), task_loss, cpu)
    moments = iter([0.0, 3.0, 10.0, 12.0, 0.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(planning.time, "perf_counter", lambda: next(moments))
    assert planning.faster_layout(step, (1, 16, 16, 16)) == torch.channels_last_3d
    assert planning.faster_layout(step, (1, 16, 16, 16)) == torch.contiguous_format
    assert all(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_cpu_is_not_measured(network, task_loss, cpu):
    """What depends on a clock would not give the same bits again."""
    step = SupervisedStep(network, make_optimizer(network, "sgd", 0.1), task_loss, cpu, micro_batch=3)
    step.gradients = None
    planning.plan(step, (1, 16, 16, 16), 3)
    assert (step.layout, step.micro_batch) == (planning.CPU_LAYOUT, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_plan_on_a_gpu_foresees_the_memory_of_a_step(network, task_loss):
    device = torch.device("cuda")
    step = SupervisedStep(network.to(device), make_optimizer(network, "adam", 0.1), task_loss, device)
    planning.plan(step, (1, 64, 64, 64), 4)
    assert step.micro_batch == 4
    assert step.layout in (torch.contiguous_format, torch.channels_last_3d)
