"""One study to one case: read, check, preprocess, store. The unit of work of a process pool (or, later, a cluster).

Nothing here looks at a second study: what becomes of a patient depends on that patient alone (privacy.md).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsite.dataset import cases, lesions, loading, pictures
from fedsite.dataset.folder import Outcome
from fedsite.dataset.loading import Loaded
from fedsite.dataset.manifest import CaseRecord, Exclusion, Remark, Split, Triple
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import Study, exclusion
from fedsite.dicom.checks import Finding
from fedsite.errors import DataNotFit
from fedsite.tasks import registry
from fedsite.tasks.description import Task


@dataclass(frozen=True)
class Settings:
    """What all studies of a run share. `out` is None when nothing is to be stored."""

    task: Task
    spacing_mm: Triple
    out: Path | None


@dataclass(frozen=True)
class Work:
    """One study, its split, and the fingerprint of what it is made of and with which settings."""

    study: Study
    split: Split
    fingerprint: str


@dataclass(frozen=True)
class Result:
    """What became of a study; with a look at the case where nothing was stored."""

    outcome: Outcome
    look: pictures.Look | None = None


def prepare_study(work: Work, settings: Settings) -> Result:
    """Makes a case of a study, or the exclusion that says why not.

    Raises SourceMissing when the source vanishes meanwhile, CannotWrite when the case cannot be stored.
    """
    task = settings.task
    loaded, findings = loading.load(work.study, task)
    if loaded is None:
        return Result(_excluded(work, findings))
    content = preprocess(loaded, task, settings.spacing_mm)
    if loaded.mask.any() and not content.label.any():
        findings.append(finding("label-lost", work.study.id))
    ceiling = lesions.dice_ceiling(loaded.mask, loaded.affine, content.label, content.affine)
    findings += lesions.check_ceiling(ceiling, work.study.id)
    try:
        encoded = cases.encode_case(work.study.id, content)
    except DataNotFit:
        findings.append(finding("case-not-storable", work.study.id))
        return Result(_excluded(work, findings))
    record = _record(work, loaded, content, ceiling, encoded, findings)
    if settings.out is None:
        return Result(record, pictures.look(content.image, content.label, settings.spacing_mm))
    cases.store_case(settings.out, encoded)
    return Result(record)


def preprocess(loaded: Loaded, task: Task, spacing_mm: Triple) -> cases.Content:
    """What the task's own MONAI transforms make of a study: every case, and what a model is to segment."""
    import torch
    from monai.data.meta_tensor import MetaTensor

    affine = torch.from_numpy(loaded.affine)
    case = registry.module(task.module).preprocessing(task, spacing_mm)(
        {
            "image": MetaTensor(torch.from_numpy(loaded.image), affine=affine),
            "label": MetaTensor(torch.from_numpy(loaded.mask[None]), affine=affine),
        }
    )
    # torch, not NumPy: ten times as fast. What float16 cannot hold becomes infinite, and encode_case refuses it.
    image, label = case["image"].as_tensor().half(), case["label"][0].as_tensor().round().byte()
    return cases.Content(
        image=image.numpy(),
        label=label.numpy(),
        affine=case["label"].affine.numpy(),
        inputs=task.inputs,
        source_label=loaded.mask,
        source_affine=loaded.affine,
        missing=loaded.missing,
    )


def _record(
    work: Work,
    loaded: Loaded,
    content: cases.Content,
    ceiling: float | None,
    encoded: cases.EncodedCase,
    findings: list[Finding],
) -> CaseRecord:
    reference = work.study.images[0]
    spacing = np.linalg.norm(reference.affine[:3, :3], axis=0)
    voxel_ml = abs(float(np.linalg.det(reference.affine[:3, :3]))) / 1000
    return CaseRecord(
        id=work.study.id,
        patient=work.study.patient,
        split=work.split,
        file=encoded.file,
        sha256=encoded.sha256,
        image_sha256=encoded.image_sha256,
        shape=content.label.shape,
        lesion_ml=round(float(np.count_nonzero(loaded.mask)) * voxel_ml, 4),
        source_shape=reference.shape,
        source_spacing_mm=(round(float(spacing[0]), 4), round(float(spacing[1]), 4), round(float(spacing[2]), 4)),
        b_value=reference.b_value,
        scanner=reference.scanner,
        input_state=loaded.input_state,
        dice_ceiling=None if ceiling is None else round(ceiling, 4),
        fingerprint=work.fingerprint,
        missing=content.missing,
        findings=tuple(Remark.of(remark) for remark in findings),
    )


def _excluded(work: Work, findings: list[Finding]) -> Exclusion:
    return exclusion(work.study.id, work.study.patient, findings, work.fingerprint)
