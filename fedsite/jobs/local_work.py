"""Joins loop, task, cases and device: the global model in, this site's trained weights out."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import manifest as manifests
from fedsite.dataset.cases import CaseFiles, verify_case
from fedsite.dataset.manifest import CaseRecord, Manifest
from fedsite.errors import DataNotFit, RecordsDamaged
from fedsite.files import PRIVATE_FILE, atomic_writer
from fedsite.jobs.site import Site
from fedsite.site import withdrawals
from fedsite.wire import payload
from fedsite.wire.messages import MalformedMessage, Plan, PlanDraft

if TYPE_CHECKING:
    from fedsite.training.distributed import Group


class Progress(Protocol):
    """Told how far a step of a round is, and in a few words how it goes (a loss: for this site's eyes alone)."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """So many of so many are done."""
        ...


# Opens a step of a round by what it is called, and gives what is told how far it is.
Steps = Callable[[str], AbstractContextManager[Progress]]

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


def open_prepared(site: Site, plan: PlanDraft) -> PreparedData:
    """The prepared data, if they are what the plan needs and hold nobody who was withdrawn.

    Raises SourceMissing, DataNotFit naming the difference.
    """
    folder = site.config.paths.data
    manifest = manifests.load(folder)
    require_nobody_withdrawn(site, manifest)
    # Of the channels a plan may ask for some: the cases' reader picks them by name.
    lacking = [name for name in plan.channels if name not in manifest.channels]
    wanted = {
        "task": plan.task,
        "channels": tuple(plan.channels),
        "input state": plan.preparation.input_state,
        "spacing in mm": tuple(plan.preparation.spacing_mm),
    }
    found = {
        "task": manifest.task,
        "channels": tuple(manifest.channels) if lacking else tuple(plan.channels),
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


def train(
    plan: Plan,
    seed: int,
    model: Path,
    data: PreparedData | None,
    device: str,
    destination: Path,
    progress: Progress,
    group: "Group | None" = None,
) -> None:
    """Trains the plan's steps from the global model and writes the weights to `destination` (0600).

    With `steps: 0` the weights are the global model's and nothing is imported. As one of a group of processes it takes
    its share of each batch; the group's leader reads the model and writes the weights. Raises DataNotFit when a case is
    not what the manifest says, or the loss diverges.
    """
    if plan.local.steps == 0 or data is None:
        with atomic_writer(destination, PRIVATE_FILE) as file, model.open("rb") as source:
            shutil.copyfileobj(source, file)
        return
    from fedsite.tasks import networks, registry, request
    from fedsite.training import devices, distributed, loop, sampling, steps, weights

    group = group or distributed.Group()
    if group.leads:
        for case in data.records("training"):
            verify_case(data.folder / case.file, case.sha256)
    local = plan.local
    task = request.check(plan.task, plan.channels, plan.network.name, plan.network.settings, local.patch_voxels)
    network = networks.build(task, plan.network.name, plan.network.settings)
    if group.leads:
        weights.load(network, payload.tensors_of(model))
    where = devices.choose_device(device)
    network.to(where)
    group.same(network)
    sampler = sampling.PatchSampler(
        data.cases("training", task.inputs),
        local.patch_voxels,
        local.batch_size,
        local.foreground_fraction,
        seed,
        part=group.share(local.batch_size),
    )
    optimizer = loop.make_optimizer(network, local.optimizer, local.learning_rate)
    loss = registry.module(task.module).loss()
    step = steps.SupervisedStep(network, optimizer, loss, where, reduction=group.reduction(local.batch_size))
    loop.train(network, sampler, group.whole(step, local.batch_size), local.steps, progress)
    if group.leads:
        payload.write_model(destination, weights.export(network), PRIVATE_FILE)


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
        return after[part].astype(np.float64) - before[part].astype(np.float64)

    return read, layout
