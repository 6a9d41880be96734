"""Trains a network on prepared cases: joins sampler, step, schedule, checkpoints and what the machine can do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsite.tasks.description import Task
from fedsite.training import distributed, loop, planning
from fedsite.training.averaging import Average
from fedsite.training.checkpoints import Checkpoints
from fedsite.training.devices import GpuUse, Precision, prepare_device
from fedsite.training.distributed import Group
from fedsite.training.private import PatientSampler, Private, PrivateStep
from fedsite.training.sampling import CaseLike, PatchSampler, Sides, optional_inputs
from fedsite.training.schedules import OptimizerName, Schedule, follow, make_optimizer
from fedsite.training.steps import GradientHook, Loss, SupervisedStep
from fedsite.training.stopping import EarlyStop, TimeLimit

ALONE = Group()


@dataclass(frozen=True)
class Recipe:
    """What a plan says of the training in one round. A step sees `batch_size` times `accumulation` patches.

    Under a private mechanism it sees `patches_per_patient` of whoever is in it, `batch_size` of them at once.
    `early_stop` is (steps between measurements, measurements without gain), None for none. With `ema` above 0 the
    weights in the end are a moving average of this decay.
    """

    steps: int
    batch_size: int
    patch_voxels: Sides
    optimizer: OptimizerName
    learning_rate: float
    foreground_fraction: float
    seed: int
    momentum: float = 0.9
    accumulation: int = 1
    schedule: Schedule = "constant"
    channel_dropout: float = 0.0
    early_stop: tuple[int, int] | None = None
    ema: float = 0.0
    patches_per_patient: int = 1


@dataclass(frozen=True)
class Machine:
    """What this machine gives to the training: a device, a place for the checkpoint and how often, minutes.

    `purpose` names everything that decides what is computed (see `Checkpoints`).
    """

    device: torch.device
    compiled: bool = False
    checkpoint: Path | None = None
    checkpoint_seconds: float = 300.0
    purpose: str = ""
    limit_seconds: float = math.inf


def fit(
    network: nn.Module,
    task: Task,
    cases: Sequence[CaseLike],
    loss: Loss,
    recipe: Recipe,
    machine: Machine,
    progress: loop.Progress = loop.silent,
    *,
    group: Group = ALONE,
    correction: GradientHook | None = None,
    validate: Callable[[], float] | None = None,
    private: Private | None = None,
) -> loop.TrainingRecord:
    """Trains the network, in place and on the machine's device, as the recipe says; gives what the training was.

    The network's weights must be the same in every process of the group. `correction` is what an algorithm adds to
    the gradient; `validate` measures for early stopping; `private` makes each step private, in a group of one. Raises
    as `loop.train` does, and DeviceTooSmall.
    """
    device, size = machine.device, recipe.batch_size * recipe.accumulation
    prepare_device(device)
    network.to(device)
    step = SupervisedStep(
        network,
        make_optimizer(network, recipe.optimizer, recipe.learning_rate, recipe.momentum),
        loss,
        device,
        micro_batch=recipe.batch_size,
        precision=Precision.of(device) if private is None else Precision.of(device).unscaled,
        reduction=group.reduction(size),
        correction=correction,
        compiled=machine.compiled,
        average=Average(network, recipe.ema) if recipe.ema else None,
    )
    planning.plan(step, (len(task.inputs), *recipe.patch_voxels), recipe.batch_size)
    planned, use = step.micro_batch, GpuUse(device)
    early_stop = _early_stop(network, recipe, group, device, validate)
    sampler, taken = _parts(task, cases, recipe, group, step, private)
    record = loop.train(
        network,
        sampler,
        taken,
        recipe.steps,
        lambda done, total, note="": progress(done, total, ", ".join(filter(None, (note, use.lately())))),
        before_step=follow(step.optimizer, recipe.schedule, recipe.learning_rate, recipe.steps),
        checkpoints=_checkpoints(machine, group, step, early_stop),
        limit=TimeLimit(machine.limit_seconds / group.size if group.leads else math.inf),
        early_stop=early_stop,
    )
    if step.average is not None:
        step.average.take_over()
    events = [*_memory_events(recipe.batch_size, planned, step), *(private.mechanism.events if private else ())]
    return replace(record, events=(*record.events, *events))


def _parts(
    task: Task,
    cases: Sequence[CaseLike],
    recipe: Recipe,
    group: Group,
    step: SupervisedStep,
    private: Private | None,
) -> tuple[loop.Sampler[Any], loop.Step[Any]]:
    """What the loop is given: this process's share of each batch, or the patches of whoever is in a private step."""
    size = recipe.patches_per_patient if private else recipe.batch_size * recipe.accumulation
    patches = PatchSampler(
        cases,
        recipe.patch_voxels,
        size,
        recipe.foreground_fraction,
        recipe.seed,
        optional=optional_inputs(task),
        channel_dropout=recipe.channel_dropout,
        part=slice(None) if private else group.share(size),
        device=step.device,
    )
    if private:
        return PatientSampler(patches, private), PrivateStep(step, private.mechanism)
    return patches, group.whole(step, size)


def _early_stop(
    network: nn.Module, recipe: Recipe, group: Group, device: torch.device, validate: Callable[[], float] | None
) -> EarlyStop | None:
    """The group's leader measures, and all of them go by that."""
    if validate is None or recipe.early_stop is None:
        return None

    def measured() -> float:
        score = validate() if group.leads else 0.0
        return score if group.size == 1 else float(distributed.tell(repr(score).encode(), device))

    return EarlyStop(network, measured, *recipe.early_stop)


def _checkpoints(
    machine: Machine, group: Group, step: SupervisedStep, early_stop: EarlyStop | None
) -> Checkpoints | None:
    if machine.checkpoint is None:
        return None

    def tell(content: bytes) -> bytes:
        return content if group.size == 1 else distributed.tell(content, machine.device)

    return Checkpoints(
        machine.checkpoint,
        machine.purpose,
        machine.checkpoint_seconds,
        step,
        early_stop,
        leads=group.leads,
        tell=tell,
    )


def _memory_events(asked: int, planned: int | None, step: SupervisedStep) -> list[str]:
    """What was done so that a step fits into memory. It changes rounding alone."""
    events = []
    if planned is not None and planned < asked:
        events.append(f"micro-batches of {planned} instead of {asked} patches: so many fit into the GPU's free memory")
    if step.halvings:
        events.append(f"out of memory: micro-batch halved {step.halvings} times, to {step.micro_batch}")
    return events
