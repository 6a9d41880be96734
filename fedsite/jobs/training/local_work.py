"""Joins loop, task, cases and device: the global model in, this site's trained weights out."""

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsite import __version__
from fedsite.dataset import manifest as manifests
from fedsite.dataset.cases import CaseFiles, verify_case
from fedsite.dataset.manifest import CaseRecord, Manifest
from fedsite.errors import DataNotFit, RecordsDamaged
from fedsite.files import PRIVATE_FILE, atomic_writer
from fedsite.jobs.plan import algorithms
from fedsite.jobs.plan.algorithms import Carried
from fedsite.jobs.progress import Progress
from fedsite.jobs.site import Site
from fedsite.site import withdrawals
from fedsite.site.config import SiteConfig
from fedsite.wire import payload
from fedsite.wire.messages import MalformedMessage
from fedsite.wire.plans import DpSgd, Plan, PlanDraft

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedsite.tasks.description import Task
    from fedsite.training.distributed import Group
    from fedsite.training.fit import Machine, Recipe
    from fedsite.training.private import Private


# An update's values, float64, as a function of a slice; and the layout of the files that they come from.
Update = tuple[Callable[[slice], NDArray[np.float64]], payload.Layout]


@dataclass(frozen=True)
class PreparedData:
    """The prepared folder of this site, as one plan may use it."""

    folder: Path
    manifest: Manifest
    sha256: str

    def cases(self, split: manifests.Split, inputs: Sequence[str] = ()) -> CaseFiles:
        """The cases of a split, mapped one at a time, with these inputs of the network (all, if none is named)."""
        return CaseFiles([self.folder / case.file for case in self.manifest.of_split(split)], inputs)

    def records(self, split: manifests.Split) -> tuple[CaseRecord, ...]:
        """What the manifest says of them."""
        return self.manifest.of_split(split)

    def patients(self, split: manifests.Split) -> dict[str, tuple[int, ...]]:
        """Which of a split's cases are whose: their places in `cases`, by the patient's pseudonym, in order."""
        owners = [record.patient for record in self.records(split)]
        return {
            patient: tuple(place for place, owner in enumerate(owners) if owner == patient)
            for patient in sorted(set(owners))
        }


def open_prepared(site: Site, plan: PlanDraft) -> PreparedData:
    """The prepared data, if they are what the plan needs and hold nobody who was withdrawn.

    Raises SourceMissing, DataNotFit naming the difference.
    """
    folder = site.config.paths.data
    manifest = manifests.load(folder)
    require_nobody_withdrawn(site, manifest)
    wanted = {
        "task": plan.task,
        "channels": tuple(plan.channels),
        "input state": plan.preparation.input_state,
        "spacing in mm": tuple(plan.preparation.spacing_mm),
    }
    found = {
        "task": manifest.task,
        # A plan may use some of what was prepared: the cases' reader picks the inputs by name.
        "channels": tuple(name for name in manifest.channels if name in plan.channels),
        "input state": manifest.input_state,
        "spacing in mm": tuple(manifest.spacing_mm),
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise DataNotFit(
                f"The prepared data do not fit the plan: {name} is {found[name]}, the plan needs {value}.",
                "Prepare them again with fitting settings (site.yaml, preparation), or ask the coordinator.",
            )
    if plan.local.steps and not manifest.of_split("training"):
        raise DataNotFit(
            "The prepared data hold no case for training.",
            "Prepare more patients, or hold out fewer (site.yaml, preparation.validation_fraction).",
        )
    digest = hashlib.sha256((folder / manifests.FILE_NAME).read_bytes()).hexdigest()
    return PreparedData(folder, manifest, digest)


def require_nobody_withdrawn(site: Site, manifest: Manifest) -> None:
    """Raises DataNotFit: a withdrawal was cut off, or prepared data were brought back from before it."""
    for patient in sorted({case.patient for case in manifest.cases} & withdrawals.withdrawn(site.state)):
        raise DataNotFit(
            f"The prepared data hold patient {patient}, who was withdrawn.",
            f"Run: fedsite data exclude {patient} --yes",
        )


@dataclass(frozen=True)
class Means:
    """What the site gives to a training besides its devices: how often it is kept, whether it is compiled, minutes."""

    checkpoint_minutes: float = 5.0
    compile: bool = False
    maximum_gpu_minutes: float | None = None

    @staticmethod
    def of(config: SiteConfig) -> "Means":
        """As the site's configuration and policy say."""
        training = config.training
        return Means(training.checkpoint_minutes, training.compile, config.policy.maximum_gpu_minutes)


DEFAULT_MEANS = Means()


def train(
    plan: Plan,
    seed: int,
    model: Path,
    data: PreparedData | None,
    device: str,
    destination: Path,
    progress: Progress,
    group: "Group | None" = None,
    carried: Carried = algorithms.NOTHING,
    means: Means = DEFAULT_MEANS,
    sampling_rate: float = 1.0,
) -> dict[str, Any] | None:
    """Trains the plan's steps from the global model and writes the weights that travel to `destination` (0600).

    Gives what the training was, for this site alone: losses, time, what happened. With `steps: 0` the weights are the
    global model's, nothing is imported and there is nothing to tell. Beside `destination` the training is kept while it
    lasts; called again after a kill, it goes on from there and ends the same.

    As one of a group of processes it takes its share of each batch; the group's leader reads the model and writes the
    weights. Layers that stay at home begin and end in the files of `carried`. Under dp-sgd each patient is in a step
    with chance `sampling_rate`, and every step is private; what it costs must have been charged before. Raises
    DataNotFit when a case is not what the manifest says or the loss diverges, MinutesSpent at the policy's limit,
    DeviceTooSmall, DeviceLost.
    """
    if plan.local.steps == 0 or data is None:
        with atomic_writer(destination, PRIVATE_FILE) as file, model.open("rb") as source:
            shutil.copyfileobj(source, file)
        return None
    from fedsite.tasks import registry
    from fedsite.training import devices, distributed
    from fedsite.training.fit import fit

    group = group or distributed.Group()
    if group.leads:
        for case in data.records("training"):
            verify_case(data.folder / case.file, case.sha256)
    task, where = algorithms.check(plan), devices.choose_device(device)
    network, kept = network_of(plan, task, model if group.leads else None, carried)
    network.to(where)
    group.same(network)
    progress_file = kept_beside(destination)
    with devices.told_when_lost(where):
        record = fit(
            network,
            task,
            data.cases("training", task.inputs),
            registry.module(task.module).loss(),
            recipe_of(plan, seed),
            _machine(where, means, progress_file, f"{seed} {data.sha256}"),
            progress,
            group=group,
            correction=algorithms.correction(network, plan, carried, group.same),
            validate=validation(network, task, plan, data, where) if plan.local.early_stop else None,
            private=_private(plan, network, data, sampling_rate),
        )
    if group.leads:
        _write(network, kept, destination, carried.layers if algorithms.learns_at_home(plan) else None)
        progress_file.unlink(missing_ok=True)
    return record.summary() | {"gpus": group.size if where.type == "cuda" else 0}


def network_of(
    plan: PlanDraft, task: "Task", model: Path | None, carried: Carried
) -> tuple["nn.Module", frozenset[str]]:
    """The plan's network as the round begins with it, and the names of its tensors that stay at home.

    Without a model it is as built: the group's leader gives its weights to all.
    """
    from fedsite.tasks import networks
    from fedsite.training.algorithms import freeze

    network = networks.build(task, plan.network.name, plan.network.settings)
    if model is not None:
        algorithms.load(network, plan, model, carried.own)
    kept = algorithms.at_home(plan, network.state_dict())
    freeze(network, algorithms.frozen(plan, network.state_dict()))
    return network, kept


def _private(plan: Plan, network: "nn.Module", data: PreparedData, sampling_rate: float) -> "Private | None":
    """The plan's private steps, for the patients who are trained on here; None where the whole update is noised."""
    if not isinstance(plan.privacy, DpSgd):
        return None
    from fedsite.privacy.dpsgd import PrivateGradient, Settings
    from fedsite.training.private import Private

    asked, patients = plan.privacy, data.patients("training")
    settings = Settings(asked.clip_norm, asked.noise_multiplier, asked.batch_patients, sampling_rate)
    return Private(PrivateGradient(network, len(patients), settings), patients)


def _write(network: "nn.Module", kept: frozenset[str], destination: Path, layers: Path | None) -> None:
    """The weights that travel to `destination`; those that are `kept` at home to `layers`, if they were trained."""
    from fedsite.training import weights

    trained = weights.export(network)
    if layers is not None:
        payload.write_model(layers, {name: trained[name] for name in sorted(kept)}, PRIVATE_FILE)
    travels = {name: values for name, values in trained.items() if name not in kept}
    payload.write_model(destination, travels, PRIVATE_FILE)


def kept_beside(destination: Path) -> Path:
    """Where a training is kept until its weights are written to `destination`."""
    return destination.with_name(f"{destination.stem}.training.safetensors")


def recipe_of(plan: PlanDraft, seed: int) -> "Recipe":
    """What a plan says of a training."""
    from fedsite.training.fit import Recipe

    local = plan.local
    stop = (local.early_stop.every, local.early_stop.patience) if local.early_stop else None
    each = plan.privacy.patches_per_patient if isinstance(plan.privacy, DpSgd) else 1
    own = {"seed", "early_stop", "train"}
    return Recipe(**local.model_dump(exclude=own), seed=seed, early_stop=stop, patches_per_patient=each)


def _machine(device: "torch.device", means: Means, kept: Path, purpose: str) -> "Machine":
    from fedsite.training.fit import Machine

    limited = device.type == "cuda" and means.maximum_gpu_minutes is not None
    return Machine(
        device=device,
        compiled=means.compile,
        checkpoint=kept,
        checkpoint_seconds=means.checkpoint_minutes * 60,
        purpose=f"fedsite {__version__} {purpose}",
        limit_seconds=(means.maximum_gpu_minutes or 0) * 60 if limited else math.inf,
    )


def validation(
    network: "nn.Module", task: "Task", plan: PlanDraft, data: PreparedData, device: "torch.device"
) -> Callable[[], float]:
    """The mean Dice of what is not background over the held-out cases, as the network is at that moment."""
    from fedsite.training import inference, metrics

    cases = data.cases("validation", task.inputs)
    if not cases:
        raise DataNotFit(
            "The plan stops training early by local validation, and no case is held out here.",
            "Prepare more patients, or hold out some (site.yaml, preparation.validation_fraction).",
        )

    def mean_dice() -> float:
        patch = plan.local.patch_voxels
        return fmean(
            metrics.dice(inference.segment(network, task, case.image, patch, device), case.label) for case in cases
        )

    return mean_dice


def open_update(model: Path, trained: Path) -> Update:
    """The update: trained minus global. Raises RecordsDamaged when a file is damaged, or they are not of one model."""
    try:
        layout = payload.layout_of(model)
        payload.check_file(trained, layout)
    except MalformedMessage as error:
        raise RecordsDamaged(
            f"The round's model or its trained weights are damaged in the state folder: {error}.",
            "Nothing was released. See whether the disk is healthy; the next run trains again.",
        ) from error
    before, after = payload.map_values(model, layout), payload.map_values(trained, layout)

    def read(part: slice) -> NDArray[np.float64]:
        difference: NDArray[np.float64] = np.subtract(after[part], before[part], dtype=np.float64)
        return difference

    return read, layout
