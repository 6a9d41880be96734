"""`fedsite personalize`: the newest global model, trained on with this site's own cases, at home and for good.

Nothing of it is released, so it may do what a round may not: stop when validation no longer gains. The patients whom
that looks at are some of those it would train on, never the held-out ones: these compare it with the global model, and
whoever chose the stopping point by them would compare in its favour.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedsite import __version__
from fedsite.dataset.cases import verify_case
from fedsite.dataset.manifest import CaseRecord
from fedsite.errors import DataNotFit
from fedsite.files import PRIVATE_FILE, sha256_of
from fedsite.jobs.lock import only_run
from fedsite.jobs.models import choice, evaluate, personal
from fedsite.jobs.models.choice import Model
from fedsite.jobs.models.personal import Gain, Record
from fedsite.jobs.progress import Progress, Steps
from fedsite.jobs.site import Site
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import PreparedData
from fedsite.tasks import registry
from fedsite.wire import payload

if TYPE_CHECKING:
    from fedsite.training.loop import TrainingRecord
    from fedsite.training.summary import MeasuredCase

STOPPING_SHARE = 0.2  # of the training patients, if there are enough of them
LEAST_PATIENTS = 5
MEASUREMENTS, PATIENCE = 10, 3


@dataclass(frozen=True)
class Asked:
    """How the operator wants it; None is what site.yaml says."""

    steps: int | None = None
    learning_rate: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Personalised:
    """What came of it. `kept` says whether it is the personalised model from now on: it is, if it gained."""

    record: Record
    kept: bool
    steps_taken: int


def personalise(site: Site, asked: Asked, step: Steps) -> Personalised:
    """Fine-tunes the newest global model at home and compares both on the held-out patients.

    Raises what `choice.newest` raises, DataNotFit without cases to train on or held-out ones to compare on,
    TryAgainLater while another run is at work, CannotWrite.
    """
    with only_run(site.state.folder):
        base = choice.newest(site, step)
        data = local_work.open_prepared(site, base.plan)
        if not (data.records("training") and data.records("validation")):
            raise DataNotFit("There are no cases to train on, or no held-out ones.", "Prepare more patients.")
        settings = site.config.personalization
        steps = settings.steps if asked.steps is None else asked.steps
        rate = settings.learning_rate if asked.learning_rate is None else asked.learning_rate
        candidate = personal.file_of(site.state, "candidate")
        with step("Training at home") as progress:
            trained = _train(site, base, data, replace(asked, steps=steps, learning_rate=rate), progress)
        sha256 = sha256_of(candidate)
        tuned = Model(candidate, sha256, base.plan, "personalised", base.after_round)
        gain = _compare(site, base, tuned, data, step)
        record = Record(
            sha256=sha256,
            plan=base.plan,
            base_sha256=base.sha256,
            after_round=base.after_round,
            data_sha256=data.sha256,
            steps=steps,
            learning_rate=rate,
            seed=asked.seed,
            gain=gain,
        )
        if gain.difference > 0:
            candidate.replace(personal.file_of(site.state, sha256))
            personal.keep(site.state, record)
        else:
            candidate.unlink()
    return Personalised(record, gain.difference > 0, len(trained.losses))


def divided(records: Sequence[CaseRecord], seed: int) -> tuple[list[CaseRecord], list[CaseRecord]]:
    """The cases to train on, and those of other patients by which training stops; none where patients are few."""
    patients = sorted({record.patient for record in records})
    if len(patients) < LEAST_PATIENTS:
        return list(records), []
    count = round(STOPPING_SHARE * len(patients))
    chosen = set(np.random.default_rng(seed).permutation(np.array(patients))[:count].tolist())
    return (
        [record for record in records if record.patient not in chosen],
        [record for record in records if record.patient in chosen],
    )


def _train(site: Site, base: Model, data: PreparedData, asked: Asked, progress: Progress) -> "TrainingRecord":
    """Trains every layer, and writes the weights where the candidate lies. Cut off by a kill, it goes on from there."""
    from fedsite.training import devices, fit, weights

    assert asked.steps is not None
    assert asked.learning_rate is not None
    learning, stopping = divided(data.records("training"), asked.seed)
    for record in (*learning, *stopping):
        verify_case(data.folder / record.file, record.sha256)
    own = replace(data, manifest=data.manifest.model_copy(update={"cases": (*learning, *_as_validation(stopping))}))
    task, device = choice.task_of(base), devices.choose_device(site.device)
    network = choice.network_of(base).to(device)
    candidate = personal.file_of(site.state, "candidate")
    checkpoint = local_work.kept_beside(candidate)
    found = fit.fit(
        network,
        task,
        own.cases("training", task.inputs),
        registry.module(task.module).loss(),
        replace(
            local_work.recipe_of(base.plan, asked.seed),
            steps=asked.steps,
            learning_rate=asked.learning_rate,
            early_stop=(max(1, asked.steps // MEASUREMENTS), PATIENCE) if stopping else None,
            ema=0.0,
        ),
        fit.Machine(
            device,
            site.config.training.compile,
            checkpoint,
            site.config.training.checkpoint_minutes * 60,
            f"fedsite {__version__} personalize {base.sha256} {data.sha256} {asked}",
        ),
        progress,
        validate=local_work.validation(network, task, base.plan, own, device) if stopping else None,
    )
    payload.write_model(candidate, weights.export(network), PRIVATE_FILE)
    checkpoint.unlink(missing_ok=True)
    return found


def _as_validation(records: Sequence[CaseRecord]) -> list[CaseRecord]:
    return [record.model_copy(update={"split": "validation"}) for record in records]


def _compare(site: Site, base: Model, tuned: Model, data: PreparedData, step: Steps) -> Gain:
    """Both models on the same held-out patients: the mean of the differences, with its bootstrap interval."""
    measured = []
    for model in (base, tuned):
        with step(f"Measuring the {model.title} at home") as progress:
            measured.append(evaluate.evaluate(model, data, site.device, progress).cases)
    return gained(*measured)


def gained(before: Sequence["MeasuredCase"], after: Sequence["MeasuredCase"]) -> Gain:
    """What the second model gained over the first on the same cases, in the same order: Dice, paired by patient."""
    from fedsite.training import summary

    pairs = list(zip(before, after, strict=True))
    found = summary.estimate((one.patient, other.dice - one.dice) for one, other in pairs)
    return Gain(
        patients=found.patients,
        before=summary.mean_dice(before).mean or 0.0,
        after=summary.mean_dice(after).mean or 0.0,
        difference=found.mean or 0.0,
        low=found.low,
        high=found.high,
    )
