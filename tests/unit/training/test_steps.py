import pytest
import torch
from torch import nn

from fedsite.errors import DeviceTooSmall
from fedsite.training.batches import Batch
from fedsite.training.devices import Precision
from fedsite.training.schedules import make_optimizer
from fedsite.training.steps import SupervisedStep


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(6, 1, 16, 16, 16, generator=generator)
    return Batch(image, (image > 1).byte())


@pytest.fixture
def step_of(network, task_loss, cpu):
    def make(**options):
        return SupervisedStep(network, make_optimizer(network, "sgd", 0.1), task_loss, cpu, **options)

    return make


def gradients(network):
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize("size", [1, 2, 4, 6, 100])
def test_micro_batches_make_the_same_step(step_of, network, batch, size):
    """Also where the last one is smaller: a loss is a mean over patients."""
    whole = step_of()
    loss = whole.gradients(batch)
    expected = gradients(network)
    found = step_of(micro_batch=size).gradients(batch)
    torch.testing.assert_close(found, loss)
    for one, two in zip(gradients(network), expected, strict=True):
        torch.testing.assert_close(one, two)


def test_the_gradient_is_the_losss(step_of, network, batch, task_loss):
    step_of().gradients(batch)
    expected = torch.autograd.grad(task_loss(network(batch.image), batch.label), list(network.parameters()))
    for one, two in zip(gradients(network), expected, strict=True):
        assert torch.equal(one, two)


def test_reduction_comes_before_correction_and_both_before_the_optimiser(step_of, network, batch):
    """SGD's first step is w - lr (1 + momentum) g."""
    order = []
    before = [parameter.detach().clone() for parameter in network.parameters()]

    def reduction(seen):
        order.append("reduction")
        for parameter in seen.parameters():
            parameter.grad.fill_(1)

    def correction(seen):
        order.append("correction")
        for parameter in seen.parameters():
            parameter.grad.add_(1)

    loss = step_of(reduction=reduction, correction=correction)(batch)
    assert order == ["reduction", "correction"]
    assert loss.shape == ()
    assert not loss.requires_grad
    for parameter, old in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.1 * 1.9 * 2)


class Small(nn.Module):
    """A device on which no more than so many patches fit, once or for ever."""

    def __init__(self, network, most, times=1000):
        super().__init__()
        self.network, self.most, self.times = network, most, times

    def forward(self, image):
        if len(image) > self.most and self.times:
            self.times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(image)


def test_out_of_memory_halves_the_micro_batch_and_makes_the_same_step(network, batch, task_loss, cpu, step_of):
    loss = step_of().gradients(batch)
    expected = gradients(network)
    small = Small(network, most=2)
    step = SupervisedStep(small, make_optimizer(small, "sgd", 0.0), task_loss, cpu)
    torch.testing.assert_close(step(batch), loss)
    assert (step.micro_batch, step.halvings) == (1, 2)
    for one, two in zip(gradients(network), expected, strict=True):
        torch.testing.assert_close(one, two)
    step(batch)
    assert step.halvings == 2, "what was learned is kept"


def test_out_of_memory_in_the_middle_of_a_batch_counts_no_patch_twice(network, batch, task_loss, cpu, step_of):
    step_of().gradients(batch)
    expected = gradients(network)

    class Later(Small):
        def forward(self, image):
            self.most = 100 if self.times == 1000 else 2
            self.times -= 1
            return super().forward(image)

    later = Later(network, most=100)
    step = SupervisedStep(later, make_optimizer(later, "sgd", 0.0), task_loss, cpu, micro_batch=3)
    step(batch)
    assert step.halvings == 1
    for one, two in zip(gradients(network), expected, strict=True):
        torch.testing.assert_close(one, two)


def test_a_device_too_small_for_one_patch_is_named_and_no_weight_moves(network, batch, task_loss, cpu):
    small = Small(network, most=0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    step = SupervisedStep(small, make_optimizer(small, "sgd", 0.1), task_loss, cpu)
    with pytest.raises(DeviceTooSmall, match="does not fit"):
        step(batch)
    assert all(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))


def test_an_optimiser_that_does_not_fit_is_named(step_of, batch, monkeypatch):
    """Its step is not tried again: it may have moved some weights."""
    step = step_of()

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step.optimizer, "step", full)
    with pytest.raises(DeviceTooSmall, match="optimiser's state does not fit"):
        step(batch)
    assert step.halvings == 0


def test_deep_supervision_is_computed_in_full_precision(batch, cpu):
    seen = []

    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image):
            return [(image * self.weight).bfloat16(), image[..., ::2] * self.weight]

    def loss(logits, label):
        seen.extend(scale.dtype for scale in logits)
        return sum(scale.mean() for scale in logits)

    network = Scales()
    SupervisedStep(network, make_optimizer(network, "sgd", 0.1), loss, cpu)(batch)
    assert set(seen) == {torch.float32}


def test_layouts_give_the_same_gradients(step_of, network, batch):
    step_of().gradients(batch)
    expected = gradients(network)
    step = step_of()
    step.use_layout(torch.channels_last_3d)
    step.gradients(batch)
    for one, two in zip(gradients(network), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "native", "dtype"),
    [("cpu", True, torch.float32), ("cuda", True, torch.bfloat16), ("cuda", False, torch.float16)],
)
def test_precision(monkeypatch, device, native, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    precision = Precision.of(torch.device(device))
    assert precision.dtype == dtype
    assert precision.scaled == (dtype == torch.float16)


def test_float16_scales_its_loss_and_corrections_see_true_gradients(network, batch, task_loss, cpu):
    """On the CPU, where torch computes in float16 too: the same code as on a GPU without bfloat16."""
    precision = Precision("cpu", torch.float16)
    seen = []
    step = SupervisedStep(
        network,
        make_optimizer(network, "sgd", 0.1),
        task_loss,
        cpu,
        precision=precision,
        correction=lambda one: seen.extend(gradients(one)),
    )
    scale = step.scaler.get_scale()
    assert scale > 1000
    expected = torch.autograd.grad(task_loss(network(batch.image), batch.label), list(network.parameters()))
    step(batch)
    for one, two in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0.1, atol=2e-3)


def test_float16_skips_a_step_that_overflows_and_scales_down(network, batch, task_loss, cpu):
    step = SupervisedStep(
        network, make_optimizer(network, "sgd", 0.1), task_loss, cpu, precision=Precision("cpu", torch.float16)
    )
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    step(batch)
    assert all(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))
    assert step.scaler.get_scale() == 2.0**39
