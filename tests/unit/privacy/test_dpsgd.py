"""dp-sgd, part by part: who is in a step, what becomes of a gradient, how much noise there is, and how often."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from fedsite.errors import DataNotFit
from fedsite.privacy import dpsgd, mechanism
from fedsite.privacy.dpsgd import PrivateGradient, Settings, SystemChance
from fedsite.privacy.mechanism import STEPS_PER_CLIP_NORM

Floats = np.ndarray
LARGEST = float(np.finfo(np.float32).max)


class Everybody:
    """A test's chance."""

    def included(self, count: int, rate: float) -> Sequence[int]:
        return range(count)


class Ones:
    """A noise of one standard deviation on every value, which counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def standard_normal(self, count: int) -> Floats:
        self.asked.append(count)
        return np.ones(count)


class Row(nn.Module):
    """Two parameters, one of them in another order in memory, and one that is frozen."""

    def __init__(self, values: int = 32) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(values // 2 - 8))
        self.second = nn.Parameter(torch.zeros(values // 16, 8).t())
        self.third = nn.Parameter(torch.zeros(8))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)


def private(
    network: nn.Module,
    noise: float = 0.0,
    clip: float = 1.0,
    batch: int = 1,
    chance: dpsgd.Chance | None = None,
    noise_source: mechanism.NoiseSource | None = None,
) -> PrivateGradient:
    return PrivateGradient(network, 1, Settings(clip, noise, batch, 0.5), chance, noise_source)


def gradients_of(network: nn.Module) -> Callable[[Floats], torch.Tensor]:
    """What stands for a backward pass: a patient's patches are the gradient itself, their loss its first value."""

    def leave(row: Floats) -> torch.Tensor:
        parts = np.split(row, np.cumsum([one.numel() for one in learned(network)])[:-1])
        for parameter, part in zip(learned(network), parts, strict=True):
            parameter.grad = torch.from_numpy(part.astype(np.float32).reshape(tuple(parameter.shape)))
        return torch.tensor(float(row[0]))

    return leave


def learned(network: nn.Module) -> list[nn.Parameter]:
    return [one for one in network.parameters() if one.requires_grad]


def left(network: nn.Module) -> Floats:
    """The gradient that the optimiser would find, in the order of `gradients_of`."""
    return np.concatenate([one.grad.numpy().ravel() for one in learned(network)]).astype(np.float64)  # type: ignore[union-attr]


def step_of(patients: Sequence[Floats], clip: float = 1.0, batch: int = 1) -> Floats:
    network = Row()
    private(network, clip=clip, batch=batch)(gradients_of(network), patients)
    return left(network)


def unit(seed: int, norm: float = 1.0, values: int = 32) -> Floats:
    row = np.random.default_rng(seed).normal(size=values)
    return norm * row / np.linalg.norm(row)


# --- who is in a step -----------------------------------------------------------------------------------------------


def test_inclusions_are_poisson() -> None:
    """Per patient T draws at rate q: mean qT, variance q(1-q)T; and in a step as many as chance has it."""
    patients, rate, steps, chance = 1000, 0.1, 2000, SystemChance()
    found = np.zeros((steps, patients), bool)
    for step in range(steps):
        found[step, chance.included(patients, rate)] = True
    for axis, draws, others in ((0, steps, patients), (1, patients, steps)):
        counts = found.sum(axis=axis)
        variance = rate * (1 - rate) * draws
        assert abs(counts.mean() - rate * draws) < 5 * math.sqrt(variance / others)
        assert abs(counts.var() / variance - 1) < 5 * math.sqrt(2 / others)
    both = (found[1:] & found[:-1]).mean()
    assert abs(both - rate**2) < 5 * rate / math.sqrt(found.size), "a step knows nothing of the one before"


@pytest.mark.parametrize(("rate", "threshold"), [(0.5, 1 << 63), (0.25, 1 << 62), (1 / 3, int(2**64 / 3)), (1e-30, 0)])
def test_the_rate_is_never_rounded_up(monkeypatch: pytest.MonkeyPatch, rate: float, threshold: int) -> None:
    drawn = np.array([max(threshold, 1) - 1, threshold, threshold + 1, 2**64 - 1], np.uint64)
    monkeypatch.setattr(os, "urandom", lambda size: drawn.tobytes() if size == 32 else b"")
    assert SystemChance().included(4, rate) == ([0] if threshold else [])


def test_at_rate_one_everybody_is_in_every_step() -> None:
    assert list(SystemChance().included(5, 1.0)) == [0, 1, 2, 3, 4]


def test_the_chance_is_asked_at_the_rate_that_was_charged_whoever_is_here() -> None:
    class Asked:
        seen: list[tuple[int, float]] = []  # noqa: RUF012 - of this test alone

        def included(self, count: int, rate: float) -> Sequence[int]:
            self.seen.append((count, rate))
            return [2]

    for patients in (3, 300):
        step = PrivateGradient(Row(), patients, Settings(1.0, 1.0, 8, 0.04), Asked())
        assert step.included() == [2]
    assert Asked.seen == [(3, 0.04), (300, 0.04)]


def test_nobody_is_nobody() -> None:
    assert list(SystemChance().included(0, 0.5)) == []


# --- a patient's gradient -------------------------------------------------------------------------------------------


@given(
    arrays(np.float64, 32, elements=st.floats(-LARGEST, LARGEST, width=32)),
    st.floats(1e-3, 1e3),
    st.integers(1, 100),
)
def test_a_patient_moves_the_sum_by_no_more_than_the_bound(gradient: Floats, clip: float, batch: int) -> None:
    """In the gate's integers, where the noise is added: the norm of one patient's part is at most 2^20."""
    network = Row()
    sums = [torch.zeros(one.numel(), dtype=torch.int32) for one in learned(network)]
    private(network, clip=clip, batch=batch)._add(gradients_of(network), gradient, sums)
    total = torch.cat(sums).numpy()
    assert int(np.dot(total.astype(object), total.astype(object))) <= STEPS_PER_CLIP_NORM**2
    assert np.linalg.norm(step_of([gradient], clip=clip, batch=batch)) <= clip / batch * (1 + 1e-6)


def test_small_gradients_are_summed_as_they_are_and_large_ones_clipped() -> None:
    small, large = unit(1, 0.5), unit(2, 7.0)
    np.testing.assert_allclose(step_of([small, large], batch=4), (small + large / 7) / 4, atol=1e-5)


def test_the_order_in_memory_changes_nothing() -> None:
    """Gradients come in the layout of their parameters, or in another; what is left is value for value the same."""
    network = Row()
    expected = unit(3, 0.5)
    for layout in (torch.Tensor.contiguous, lambda one: one.t().contiguous().t() if one.dim() == 2 else one):

        def gradients(row: Floats, layout: Callable[[torch.Tensor], torch.Tensor] = layout) -> torch.Tensor:
            loss = gradients_of(network)(row)
            for one in learned(network):
                one.grad = layout(one.grad)  # type: ignore[arg-type]
            return loss

        private(network)(gradients, [expected])
        np.testing.assert_allclose(left(network), expected, atol=1e-5)


def test_the_divisor_is_the_plans_whoever_is_there() -> None:
    one, two = unit(1), unit(2)
    np.testing.assert_allclose(step_of([one], batch=8), one / 8, atol=1e-6)
    np.testing.assert_allclose(step_of([one, two], batch=8), (one + two) / 8, atol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_counts_as_zero_and_changes_nothing_else(broken: float) -> None:
    bad = unit(2)
    bad[5] = broken
    network = Row()
    step = private(network)
    step(gradients_of(network), [unit(1), bad, unit(3)])
    assert np.array_equal(left(network), step_of([unit(1), unit(3)]))
    assert step.unusable == 1
    assert step.events == ["1 times a patient's gradient was not finite, and counted as zero"]
    assert private(network).events == []


def test_what_took_no_part_counts_as_zero() -> None:
    network = Row()

    def gradients(row: Floats) -> torch.Tensor:
        loss = gradients_of(network)(row)
        network.third.grad = None
        return loss

    row = unit(1)
    private(network)(gradients, [row])
    np.testing.assert_allclose(left(network)[:-8], row[:-8], atol=1e-5)
    assert not left(network)[-8:].any()


def test_the_loss_is_the_patients_mean_and_that_of_before_in_an_empty_step() -> None:
    network = Row()
    step, gradients = private(network), gradients_of(network)
    rows = [unit(seed) for seed in (1, 2, 3)]
    assert step(gradients, []) == 0
    assert step(gradients, rows) == pytest.approx(np.mean([row[0] for row in rows]))
    rows[2][0] = math.nan
    assert (before := step(gradients, rows)) == pytest.approx(np.mean([row[0] for row in rows[:2]]))
    assert step(gradients, []) == before
    assert step(gradients, rows[2:]) == before


def test_as_many_patients_as_there_are_can_be_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,047 patients who all point the same way fit into 32 bits; where there are more, 64 are taken."""
    assert dpsgd.MOST_IN_32_BITS == 2047
    row = np.zeros(32)
    row[0] = 2.0
    assert step_of([row] * 2047)[0] == pytest.approx(2047, rel=1e-6)
    assert step_of([row] * 2060)[0] == pytest.approx(2060, rel=1e-6)


def test_the_sum_takes_little_more_memory_than_one_gradient() -> None:
    """Less than 1.5 times as much: 32 bits for each value, and some pieces at a time."""
    values = 1 << 24
    network = Row(values)
    for one in learned(network):
        one.grad = torch.ones_like(one)
    step = private(network, noise=1.0)
    Path("/proc/self/clear_refs").write_text("5")  # sets back the process's high-water mark
    before = resident("VmRSS")
    step(lambda patches: torch.zeros(()), [None])
    assert 0.9 < (resident("VmHWM") - before) / (4 * values) < 1.5


def resident(what: str) -> int:
    """Bytes of memory that this process holds, or held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


@pytest.mark.parametrize("kind", [nn.BatchNorm3d, lambda size: nn.InstanceNorm3d(size, track_running_stats=True)])
def test_a_network_that_keeps_what_it_has_seen_is_refused(kind: Callable[[int], nn.Module]) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), kind(2))
    with pytest.raises(DataNotFit, match=r"keeps 1\.running_mean of what it has seen"):
        private(network)


def test_a_network_that_learns_nothing_is_refused() -> None:
    with pytest.raises(DataNotFit, match="Nothing in this network learns"):
        private(nn.Sequential(nn.Conv3d(1, 2, 3)).requires_grad_(False))


# --- the noise ------------------------------------------------------------------------------------------------------


def test_the_noise_is_added_once_a_step_to_every_value_that_learns() -> None:
    network, noise = Row(), Ones()
    step = private(network, noise=0.5, clip=3.0, batch=4, chance=Everybody(), noise_source=noise)
    for patients in ([], [unit(1)], [unit(1), unit(2)]):
        noise.asked.clear()
        step(gradients_of(network), patients)
        assert sum(noise.asked) == 32
        np.testing.assert_allclose(left(network), (sum(patients, np.zeros(32)) + 0.5 * 3.0) / 4, atol=1e-5)
    assert network.frozen.grad is None


def test_the_noise_of_a_step_has_the_deviation_that_is_charged() -> None:
    """Over 10^6 values within 0.5%: of what a step leaves, less the clipped gradient, through the code of a round."""
    values, sigma, clip, batch = 1 << 20, 1.3, 0.7, 5
    network, row = Row(values), unit(1, 9.0, 1 << 20)
    step = private(network, noise=sigma, clip=clip, batch=batch)
    for patients in ([row], []):
        step(gradients_of(network), patients)
        clipped = row * clip / 9.0 if patients else 0.0
        noise = left(network) * batch - clipped
        assert abs(noise.std() / (sigma * clip) - 1) < 0.005
        assert abs(noise.mean()) < 5 * sigma * clip / math.sqrt(values)


def test_no_two_steps_and_no_two_trainings_share_their_noise() -> None:
    found = []
    for _ in range(2):
        network = Row(1 << 12)
        step = private(network, noise=1.0)
        for _ in range(2):
            step(gradients_of(network), [])
            found.append(left(network))
    correlations = np.corrcoef(found)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 6 / math.sqrt(1 << 12)


def test_without_noise_the_sum_is_left_as_it_is() -> None:
    network, noise = Row(), Ones()
    private(network, noise=0.0, noise_source=noise)(gradients_of(network), [unit(1, 0.5)])
    assert noise.asked == []
    np.testing.assert_allclose(left(network), unit(1, 0.5), atol=1e-5)


def test_what_is_finer_than_the_grid_is_refused() -> None:
    with pytest.raises(DataNotFit, match="finer than the gate's grid"):
        private(Row(), noise=1e-6)


def test_a_release_takes_chance_and_noise_from_the_system() -> None:
    step = private(Row(), noise=1.0)
    assert (type(step._chance), type(step._noise)) == (SystemChance, mechanism.SystemNoise)
