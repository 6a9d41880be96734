"""A private mechanism in the one training loop: what it is given, what follows it, and what nothing else may change."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedsite.tasks import networks, registry
from fedsite.training import fit as fits
from fedsite.training.algorithms import proximal
from fedsite.training.batches import Batch
from fedsite.training.devices import Precision
from fedsite.training.fit import Machine, Recipe, fit
from fedsite.training.private import PatientSampler, Private
from fedsite.training.sampling import PatchSampler

TASK = registry.get("stroke-dwi").narrowed(["dwi"])
SIDES = (16, 16, 16)
RECIPE = Recipe(
    steps=3,
    batch_size=2,
    patch_voxels=SIDES,
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.0,
    foreground_fraction=0.67,
    seed=4,
)


class Mechanism:
    """Says who is in each step, and leaves the mean of their gradients; remembers what it was shown."""

    def __init__(self, steps: Iterable[Sequence[int]], added: float = 0.0) -> None:
        self.steps = iter(steps)
        self.added = added
        self.events: Sequence[str] = ["a word"]
        self.network: Any = None
        self.seen: list[list[Batch]] = []

    def included(self) -> Sequence[int]:
        return next(self.steps)

    def __call__(self, gradients: Callable[[Batch], torch.Tensor], step: Sequence[Batch]) -> float:
        self.seen.append(list(step))
        total = [torch.full_like(one, self.added) for one in self.network.parameters()]
        for batch in step:
            gradients(batch)
            for one, parameter in zip(total, self.network.parameters(), strict=True):
                one += parameter.grad
        for one, parameter in zip(total, self.network.parameters(), strict=True):
            parameter.grad = one
        return 1.0


def case(seed: int, size: int = 24) -> SimpleNamespace:
    random = np.random.default_rng(seed)
    label = np.zeros((size,) * 3, np.uint8)
    label[8:12, 8:12, 8:12] = 1
    image = (random.normal(size=(1, *label.shape)) + 3 * label).astype(np.float16)
    return SimpleNamespace(image=image, label=label, missing=(), foreground=lambda: np.flatnonzero(label))


def train(
    mechanism: Mechanism,
    patients: dict[str, tuple[int, ...]],
    cases: Sequence[Any],
    recipe: Recipe = RECIPE,
    loss: Any = None,
    **options: Any,
) -> SimpleNamespace:
    network = mechanism.network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    if "correction" in options:
        options["correction"] = options["correction"](network)
    loss = loss or registry.module("stroke-dwi").loss()
    machine = Machine(torch.device("cpu"))
    private = Private(mechanism, patients)
    record = fit(network, TASK, cases, loss, recipe, machine, private=private, **options)
    weights = torch.cat([one.detach().flatten() for one in network.parameters()])
    return SimpleNamespace(weights=weights, record=record, network=network)


def fresh() -> torch.Tensor:
    network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
    return torch.cat([one.detach().flatten() for one in network.parameters()])


# --- what a step sees -----------------------------------------------------------------------------------------------


def test_a_step_sees_who_is_in_it_patient_by_patient() -> None:
    mechanism = Mechanism([[0, 2], [], [1]])
    run = train(mechanism, {"a": (0,), "b": (1, 2), "c": (3,)}, [case(n) for n in range(4)])
    assert [[len(batch) for batch in step] for step in mechanism.seen] == [[1, 1], [], [1]]
    assert len(run.record.losses) == 3, "an empty step is a step"
    assert run.record.events == ("a word",)


def test_a_patients_patches_come_from_all_of_the_patients_cases_and_from_no_others() -> None:
    cases = [SimpleNamespace(**vars(case(0))) for _ in range(4)]
    for value, one in enumerate(cases):
        one.image = np.full((1, 24, 24, 24), value, np.float16)
    patches = PatchSampler(cases, SIDES, 8, 0.5, seed=4)
    sampler = PatientSampler(patches, Private(Mechanism([[0, 1]] * 6), {"a": (0, 3), "b": (1, 2)}))
    found = [set(), set()]  # type: ignore[var-annotated]
    for step in range(6):
        for values, batch in zip(found, sampler(step), strict=True):
            assert len(batch) == 8
            values.update(batch.image.unique().tolist())
    assert found == [{0.0, 3.0}, {1.0, 2.0}]


def test_nobodys_patches_depend_on_who_else_there_is() -> None:
    cases = [case(n) for n in range(3)]

    def patches_of_c(patients: dict[str, tuple[int, ...]], included: list[int]) -> Batch:
        private = Private(Mechanism([included]), patients)
        *_, last = PatientSampler(PatchSampler(cases, SIDES, 2, 0.5, seed=4), private)(5)
        return last

    alone = patches_of_c({"c": (2,)}, [0])
    beside = patches_of_c({"a": (0,), "b": (1,), "c": (2,)}, [0, 1, 2])
    assert torch.equal(alone.image, beside.image)
    assert alone.changes == beside.changes
    private = Private(Mechanism([[0], [0]]), {"c": (2,)})
    sampler = PatientSampler(PatchSampler(cases, SIDES, 2, 0.5, seed=4), private)
    assert not torch.equal(sampler(5)[0].image, sampler(6)[0].image)


def test_several_patches_of_a_patient_are_worked_through_in_micro_batches_of_that_patient() -> None:
    sizes: list[int] = []
    inner = registry.module("stroke-dwi").loss()

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        sizes.append(len(label))
        return inner(logits, label)

    mechanism = Mechanism([[0, 1], [1], []])
    train(mechanism, {"a": (0,), "b": (1,)}, [case(0), case(1)], replace(RECIPE, patches_per_patient=5), loss)
    assert sizes == [2, 2, 1] * 3
    assert [[len(batch) for batch in step] for step in mechanism.seen] == [[5, 5], [5], []]


def test_memory_that_runs_out_shrinks_the_micro_batches_of_a_patient_and_nothing_else() -> None:
    inner = registry.module("stroke-dwi").loss()

    def small(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        if len(label) > 1:
            raise torch.OutOfMemoryError
        return inner(logits, label)

    def run(loss: Any) -> tuple[Mechanism, SimpleNamespace]:
        mechanism = Mechanism([[0, 1], [], [1]])
        recipe = replace(RECIPE, patches_per_patient=4, batch_size=4)
        return mechanism, train(mechanism, {"a": (0,), "b": (1,)}, [case(0), case(1)], recipe, loss)

    shrunk, plain = run(small), run(None)
    for one, other in zip(shrunk[0].seen, plain[0].seen, strict=True):
        assert all(torch.equal(a.image, b.image) for a, b in zip(one, other, strict=True)), "the same patients' patches"
    torch.testing.assert_close(shrunk[1].weights, plain[1].weights, rtol=1e-3, atol=1e-4)
    assert "out of memory: micro-batch halved 2 times, to 1" in shrunk[1].record.events


# --- what follows the mechanism -------------------------------------------------------------------------------------


def test_what_the_mechanism_leaves_is_what_the_optimiser_takes() -> None:
    run = train(Mechanism([[], [], []], added=0.5), {"a": (0,)}, [case(0)])
    torch.testing.assert_close(run.weights, fresh() - 3 * 0.1 * 0.5)


def test_an_algorithms_terms_are_added_after_the_mechanism() -> None:
    """FedProx pulls at the weights by what the noised gradient has moved them: it never passes the clip."""
    run = train(Mechanism([[], [], []], added=0.5), {"a": (0,)}, [case(0)], correction=lambda net: proximal(net, 2.0))
    moved = 0.0
    for _ in range(3):
        moved -= 0.1 * (0.5 + 2.0 * moved)
    torch.testing.assert_close(run.weights, fresh() + moved)


def test_no_scale_may_leave_a_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 a scaled step is left out when a gradient overflows: under a private mechanism it is float32."""
    half = Precision("cuda", torch.float16)
    assert half.scaled
    assert (half.unscaled.dtype, half.unscaled.scaled) == (torch.float32, False)
    assert Precision("cuda", torch.bfloat16).unscaled.dtype == torch.bfloat16
    taken: list[Any] = []
    step = fits.SupervisedStep
    monkeypatch.setattr(Precision, "of", lambda device: Precision(device.type, torch.float16))
    monkeypatch.setattr(fits, "SupervisedStep", lambda *a, **k: taken.append(k["precision"]) or step(*a, **k))
    train(Mechanism([[], [], []]), {"a": (0,)}, [case(0)])
    assert taken == [Precision("cpu", torch.float32)]


# --- a moving average of the weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.05, 0.999])
def test_the_average_follows_the_weights(decay: float) -> None:
    """Warm at first: of step t at most (1 + t) / (10 + t) stays of what was."""
    run = train(Mechanism([[], [], []], added=0.5), {"a": (0,)}, [case(0)], replace(RECIPE, ema=decay))
    average = moved = 0.0
    for step in range(3):
        moved -= 0.1 * 0.5
        kept = min(decay, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * moved
    torch.testing.assert_close(run.weights, fresh() + average)


def test_without_an_average_the_last_weights_count() -> None:
    with_it, without = (
        train(Mechanism([[0], [0], [0]]), {"a": (0,)}, [case(0)], replace(RECIPE, ema=ema)).weights
        for ema in (0.9, 0.0)
    )
    assert not torch.equal(with_it, without)
