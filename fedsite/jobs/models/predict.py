"""`fedsite predict`: a model on studies that it has never seen, and what it found as a file that opens beside them.

A study goes through the same gate, selection, checks and preprocessing as one that is prepared for training; what is
refused there is refused here, with its finding. For research only: nothing here is fit for the care of a patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsite import __version__
from fedsite.dataset import convert, loading, nifti, overlay
from fedsite.dataset.folder import withdrawal
from fedsite.dataset.loading import Loaded
from fedsite.dataset.manifest import Exclusion
from fedsite.dataset.restoring import SourceGrid
from fedsite.dataset.rules import finding
from fedsite.dataset.sources import collect, require
from fedsite.dataset.studies import Collected, Study, Unmarked, exclusion
from fedsite.dicom.checks import Finding
from fedsite.dicom.labels import writing
from fedsite.dicom.labels.writing import Algorithm, Segment
from fedsite.dicom.model import Volume
from fedsite.errors import DataNotFit, SourceMissing, UsageError
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, make_folder, write_atomically
from fedsite.jobs import places
from fedsite.jobs.models import choice, personal
from fedsite.jobs.models.choice import Model
from fedsite.jobs.models.evaluate import Segmenter
from fedsite.jobs.progress import Steps
from fedsite.jobs.site import Site, Warn, header_index, open_site, unheard
from fedsite.site import identity, withdrawals
from fedsite.tasks import outputs
from fedsite.tasks.description import Task

RESEARCH = writing.RESEARCH_TEXT
Labels = NDArray[np.uint8]
_SEVERAL = "several-candidates"


@dataclass(frozen=True)
class Order:
    """What the operator asked for. `only` are ids of studies or images; without a model the newest one is used."""

    source: Path
    out: Path
    only: frozenset[str] = frozenset()
    every_study: bool = False
    as_nifti: bool = False
    resample: frozenset[str] = frozenset()
    layout: str = ""
    model: Path | None = None
    plan: Path | None = None
    personalised: bool = False


@dataclass(frozen=True)
class Structure:
    """How much of a structure was found, and in how many parts that do not touch each other."""

    ml: float
    lesions: int


@dataclass(frozen=True)
class Prediction:
    """What was found in one study, by pseudonym; what was noticed about it; and the files that say so.

    `missing` names the optional images that it does not have: zeros stood for them.
    """

    study: str
    image: str
    missing: tuple[str, ...]
    structures: dict[str, Structure]
    findings: tuple[Finding, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Predicted:
    """What came of all studies, and by which model."""

    model: Model
    predictions: tuple[Prediction, ...]
    refused: tuple[Exclusion, ...]


class Refused(DataNotFit):
    """No study could be predicted. What was found out about each comes with it."""

    def __init__(self, refused: Sequence[Exclusion]) -> None:
        first = refused[0]
        # The last one is the most particular: of a missing image, why those that there are will not do.
        errors = {problem.id: problem for problem in first.findings if problem.severity == "error"}
        told, last = " ".join(problem.message for problem in errors.values()), list(errors.values())[-1]
        mend = "Name the one that is meant: --only ID." if last.id == _SEVERAL else last.mend
        more = f" {len(refused) - 1} more studies were refused, too." if len(refused) > 1 else ""
        super().__init__(f"Study {first.id} was refused. {told}{more}", mend)
        self.data = {"refused": [study.model_dump(exclude={"fingerprint"}) for study in refused]}


@dataclass(frozen=True)
class _Predictor:
    """A model that is ready to work, and how its results are written."""

    model: Model
    segmenter: Segmenter
    order: Order

    @property
    def task(self) -> Task:
        """What the model was trained for, with the channels of its plan."""
        return self.segmenter.task


def predict(config_path: Path | None, order: Order, step: Steps, warn: Warn = unheard) -> Predicted:
    """Predicts the one study of a source, or every one, and writes the results into the folder `order.out`.

    Raises UsageError when the source holds several studies and none was named, Refused where none could be predicted,
    SourceMissing, CannotWrite; of the model what `models` and `personal` raise.
    """
    require(order.source)
    places.require_outside(order.source, order.out, "--out")
    places.require_writable(order.out, "--out")
    with open_site(config_path, warn) as site:
        model = _chosen(site, order, step)
        collected = _collected(site, order, choice.task_of(model), step)
        studies, refused = _selected(collected, order, withdrawals.withdrawn(site.state))
        predictor = _Predictor(model, Segmenter.of(model, site.device), order)
    predictions = []
    with step("Segmenting") as progress:
        for number, study in enumerate(studies, start=1):
            outcome = _predict(study, predictor)
            if isinstance(outcome, Prediction):
                predictions.append(outcome)
            else:
                refused.append(outcome)
            progress(number, len(studies))
    if not predictions:
        raise Refused(refused)
    return Predicted(model, tuple(predictions), tuple(refused))


def _chosen(site: Site, order: Order, step: Steps) -> Model:
    if not order.personalised:
        return choice.chosen(site, order.model, order.plan, step)
    if order.model or order.plan:
        raise UsageError("--personalized and --model name two models.", "Leave one of them out.")
    return personal.kept(site.state)


def _collected(site: Site, order: Order, task: Task, step: Steps) -> Collected:
    pseudonyms = identity.pseudonyms(site.files)
    with step("Reading headers") as progress:
        return collect(
            order.source,
            None,
            task,
            pseudonyms,
            progress,
            index=header_index(site.state.folder, pseudonyms),
            resample=order.resample,
            require_deidentified=site.config.policy.require_deidentified_input,
            unmarked=Unmarked(order.only),
            layout=order.layout,
        )


def _selected(collected: Collected, order: Order, withdrawn: frozenset[str]) -> tuple[list[Study], list[Exclusion]]:
    """The studies that are meant, and those of them that were refused.

    Raises UsageError where it is not known which one is meant, SourceMissing where one that was named is not there.
    """
    everyone: list[Study | Exclusion] = [*collected.studies, *collected.excluded]
    found = sorted(study.id for study in everyone)
    if not found:
        raise DataNotFit("The source holds no study.", "See with fedsite inspect what it holds.")
    if len(found) > 1 and not order.every_study and not order.only:
        raise UsageError(
            f"The source holds {len(found)} studies: {', '.join(found)}.",
            "Name the one that is meant with --only ID, or take each: --all.",
        )
    studies, refused = list(collected.studies), list(collected.excluded)
    if order.only:
        studies = [study for study in studies if not order.only.isdisjoint(_names(study))]
        missing = order.only - {name for study in studies for name in _names(study)}
        # What was named may be an image of a study that was refused: then that is the answer.
        refused = [study for study in refused if study.id in missing] or (refused if missing else [])
        if not studies and not refused:
            raise SourceMissing(
                f"The source holds nothing that this site calls {', '.join(sorted(order.only))}.",
                "fedsite inspect shows what it holds; ids hold for one site and its state folder.",
            )
    refused += [withdrawal(study.id, study.patient) for study in studies if study.patient in withdrawn]
    return [study for study in studies if study.patient not in withdrawn], refused


def _names(study: Study) -> set[str]:
    """The ids by which a study may be named: its own, and those of its images."""
    return {study.id, *(image.id for image in study.images)}


def _predict(study: Study, predictor: _Predictor) -> Prediction | Exclusion:
    """What the model finds in a study, written down; or why it was not asked. Raises SourceMissing, CannotWrite."""
    volumes = () if predictor.order.as_nifti else _volumes(study)
    obstacle = writing.obstacle(volumes) if volumes else ""
    if obstacle:
        return _refusal(study, finding("segmentation-unreferenced", study.id, reason=obstacle))
    loaded, findings = loading.load(study, predictor.task)
    if loaded is None:
        return _refusal(study, *findings)
    wanted = predictor.model.plan.preparation.input_state
    if loaded.input_state != wanted:
        return _refusal(study, finding("input-state-unlike-model", study.id, state=loaded.input_state, wanted=wanted))
    content = convert.preprocess(loaded, predictor.task, predictor.model.plan.preparation.spacing_mm)
    if not np.isfinite(content.image).all():
        return _refusal(study, finding("case-not-storable", study.id))
    source = SourceGrid(study.images[0].shape, content.source_affine)
    _, labels = predictor.segmenter(content.image, content.affine, source)
    structures = _structures(labels, loaded.affine, predictor.task)
    make_folder(predictor.order.out, PRIVATE_FOLDER)
    try:
        result = _write_dicom(study, labels, predictor) if volumes else _write_nifti(study, labels, predictor)
    except writing.Unwritable as error:
        return _refusal(study, finding("segmentation-unreferenced", study.id, reason=error.reason))
    picture = _write_overlay(study, loaded, labels, structures, predictor)
    return Prediction(study.id, study.images[0].id, content.missing, structures, tuple(findings), (result, picture))


def _refusal(study: Study, *findings: Finding) -> Exclusion:
    return exclusion(study.id, study.patient, findings)


def _structures(labels: Labels, affine: NDArray[np.float64], task: Task) -> dict[str, Structure]:
    from fedsite.training import metrics

    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found = {}
    for name, values in outputs.structures(task).items():
        marked = np.isin(labels, values)
        ml = round(float(np.count_nonzero(marked)) * voxel_ml, 3)
        found[name] = Structure(ml, metrics.count_lesions(marked))
    return found


def _volumes(study: Study) -> tuple[Volume, ...]:
    """The DICOM volumes that a study's first image is made of; none where it is NIfTI."""
    origin = study.images[0].origin
    if isinstance(origin, Volume):
        return (origin,)
    return origin if isinstance(origin, tuple) else ()


def _write_dicom(study: Study, labels: Labels, predictor: _Predictor) -> Path:
    task, model = predictor.task, predictor.model
    segments = [
        Segment(value, name, task.concept(value).code, task.concept(value).meaning)
        for value, name in task.labels.items()
        if value
    ]
    about = {"plan": model.plan.plan, "federation": model.plan.federation, "model": model.title}
    algorithm = Algorithm(f"fedsite {task.name}", __version__, model.sha256, about)
    path = predictor.order.out / f"{study.id}.dcm"
    write_atomically(path, writing.encode(_volumes(study), labels, segments, algorithm), PRIVATE_FILE)
    return path


def _write_nifti(study: Study, labels: Labels, predictor: _Predictor) -> Path:
    path = predictor.order.out / f"{study.id}.nii.gz"
    nifti.write(path, labels, study.images[0].affine, PRIVATE_FILE)
    return path


def _write_overlay(
    study: Study, loaded: Loaded, labels: Labels, structures: Mapping[str, Structure], predictor: _Predictor
) -> Path:
    names = {value: name for value, name in predictor.task.labels.items() if value}
    amounts = [f"{name}: {found.ml:.1f} ml in {found.lesions} part(s)" for name, found in structures.items()]
    by = f"fedsite {__version__}, {predictor.task.name}, {predictor.model.title} ({predictor.model.sha256[:12]})"
    picture = overlay.overlay(loaded.image[0], labels, loaded.affine, names, [*amounts, by, RESEARCH])
    path = predictor.order.out / f"{study.id}.png"
    write_atomically(path, picture, PRIVATE_FILE)
    return path
