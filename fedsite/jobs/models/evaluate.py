"""How good a model is on this site's held-out patients: measured at home, kept at home (privacy.md).

Images are segmented on the prepared grid and measured on the one that their mask was drawn on: there a radiologist
would look at them, and there results of different preparations can be compared.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset.cases import Case, verify_case
from fedsite.dataset.manifest import CaseRecord, Split
from fedsite.dataset.restoring import SourceGrid, to_source_grid
from fedsite.errors import DataNotFit, FedsiteError
from fedsite.jobs import places
from fedsite.jobs.models import choice, evaluation_page, evaluations
from fedsite.jobs.models.choice import Model
from fedsite.jobs.models.evaluations import Evaluation
from fedsite.jobs.pages import writing
from fedsite.jobs.progress import Progress, Steps, silent
from fedsite.jobs.site import Site
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import PreparedData
from fedsite.tasks import outputs
from fedsite.tasks.description import Task
from fedsite.wire.messages import utc_now

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedsite.training.metrics import CaseMeasures

# After training a model is measured only where the round stands for so many times as long as measuring takes.
TIMES_TO_SPARE = 10
CALLED: dict[Split, str] = {"validation": "held-out", "training": "training"}

Labels = NDArray[np.uint8]
Look = Callable[[CaseRecord, Case, Labels], None]


@dataclass(frozen=True)
class Segmenter:
    """A model, ready to segment on a device."""

    task: Task
    network: "nn.Module"
    patch_voxels: tuple[int, int, int]
    device: "torch.device"

    @classmethod
    def of(cls, model: Model, device: str) -> "Segmenter":
        """Raises DataNotFit when the model is damaged or of another network, OutOfRange as `choice.task_of` does."""
        from fedsite.training import devices

        where = devices.choose_device(device)
        return cls(choice.task_of(model), choice.network_of(model).to(where), model.plan.local.patch_voxels, where)

    def __call__(
        self, image: NDArray[np.float16], affine: NDArray[np.float64], source: SourceGrid
    ) -> tuple[Labels, Labels]:
        """The labels of an image [C, X, Y, Z] on its prepared grid (`affine`), and on its source's [i, j, k]."""
        from fedsite.training import inference

        decode = partial(outputs.labels, self.task)
        sure = inference.probabilities(self.network, self.task, image, self.patch_voxels, self.device)
        return decode(sure), to_source_grid(sure, affine, source, decode)


def _unseen(record: CaseRecord, case: Case, prediction: Labels) -> None:
    """Nobody looks."""


def evaluate(
    model: Model,
    data: PreparedData,
    device: str,
    progress: Progress = silent,
    look: Look = _unseen,
    split: Split = "validation",
) -> Evaluation:
    """Segments every case of a split, the held-out ones, with the model and compares it with what was drawn.

    `look` is shown each case with its segmentation on the prepared grid. Raises DataNotFit without any case, when a
    case is not what the manifest says, or the model is not one of its plan's network.
    """
    from fedsite.training import summary

    records = data.records(split)
    if not records:
        raise DataNotFit(
            f"There is no {CALLED[split]} case to measure on.",
            "Prepare more patients: a keyed hash holds out some of them (preparation.validation_fraction).",
        )
    started = time.monotonic()
    segmenter = Segmenter.of(model, device)
    structures = outputs.structures(segmenter.task)
    measured = []
    for number, record in enumerate(records, start=1):
        verify_case(data.folder / record.file, record.sha256)
        case = data.cases(split, segmenter.task.inputs)[number - 1]
        prediction, restored = segmenter(case.image, case.affine, case.source_grid)
        found = _measures(case, restored, structures)
        measured.append(summary.MeasuredCase(record.id, record.patient, record.scanner, found))
        look(record, case, prediction)
        progress(number, len(records), f"Dice {fmean(one.dice for one in measured):.3f}")
    return Evaluation(
        model=model,
        task=segmenter.task,
        data_sha256=data.sha256,
        split=split,
        cases=tuple(measured),
        summaries=summary.summarise(measured),
        dice=summary.mean_dice(measured),
        seconds=time.monotonic() - started,
    )


def _measures(case: Case, restored: Labels, structures: "dict[str, tuple[int, ...]]") -> "CaseMeasures":
    from fedsite.training import metrics

    x, y, z = np.linalg.norm(case.source_grid.affine[:3, :3], axis=0).tolist()
    return metrics.measure(restored, case.source_label(), (x, y, z), structures)


# --- `fedsite evaluate` ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """Which model is to be measured: the newest global one, or one in a file, for the plan in a file.

    The page goes to `report`, else into the state folder. With `training_cases` it is measured on what was learned
    from: that says what was learned and not how good the model is, and nothing of it is kept.
    """

    model: Path | None = None
    plan: Path | None = None
    report: Path | None = None
    training_cases: bool = False


@dataclass(frozen=True)
class Done:
    """What was found, and the page that shows it."""

    found: Evaluation
    report: Path


def evaluate_at_home(site: Site, order: Order, step: Steps) -> Done:
    """Measures a model on this site's held-out patients, remembers the result, and writes its page.

    Raises UsageError, CannotWrite, what `choice.newest` and `choice.from_file` raise, and what `evaluate` raises.
    """
    from fedsite.dataset import pictures

    if order.report is not None:
        places.require_writable(order.report.parent, "--report")
    model = choice.chosen(site, order.model, order.plan, step)
    data = local_work.open_prepared(site, model.plan)
    report = order.report or writing.place(site.state, writing.EVALUATION)
    split: Split = "training" if order.training_cases else "validation"
    with pictures.Album() as album:

        def look(record: CaseRecord, case: Case, prediction: Labels) -> None:
            seen = pictures.look(case.image, case.label, data.manifest.spacing_mm, prediction)
            album.keep(record.id, seen)

        with step(f"Measuring the {model.title} at home") as progress:
            found = evaluate(model, data, site.device, progress, look, split)
        if split == "validation":
            evaluations.keep(site.state, found)
        records = {record.id: record for record in data.records(split)}
        history = evaluations.rounds(site.state, model.plan.federation)
        evaluation_page.write(report, found, records, album, CALLED[split], history)
    return Done(found, report)


# --- around a round -------------------------------------------------------------------------------------------------


def in_round(
    site: Site, model: Model, data: Callable[[], PreparedData], step: Steps, until: datetime | None = None
) -> None:
    """Measures a round's model, as site.yaml asks, and keeps what was found at home.

    It steers nothing: neither what is trained nor what is released knows of it. Whatever fails here is written into the
    audit chain, and the round goes on. A model is not measured twice on the same data, and not at all where that might
    take until the round ends (`until`).
    """
    wanted = site.config.training.evaluate
    if not wanted or (wanted == "before" and model.kind == "trained"):
        return
    try:
        prepared = data()
        if not prepared.records("validation") or evaluations.is_known(site.state, model.sha256, prepared.sha256):
            return
        if until and (until - utc_now()).total_seconds() < TIMES_TO_SPARE * evaluations.newest_seconds(site.state):
            site.state.audit("evaluation left out", round=model.after_round, model=model.kind)
            return
        with step(f"Measuring the {model.title} at home") as progress:
            evaluations.keep(site.state, evaluate(model, prepared, site.device, progress))
    except Exception as error:  # noqa: BLE001 - whatever it is, the round must not be lost with it
        site.state.audit("evaluation failed", round=model.after_round, model=model.kind, reason=_reason(error))


def _reason(error: Exception) -> str:
    """What failed; of errors that are not our own the name alone, since their text may hold anything."""
    return error.message if isinstance(error, FedsiteError) else type(error).__name__
