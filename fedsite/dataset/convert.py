"""One study to one case: read, check, preprocess, store. The unit of work of a process pool (or, later, a cluster).

Nothing here looks at a second study: what becomes of a patient depends on that patient alone (privacy.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import cases, checks, pictures
from fedsite.dataset.folder import Outcome
from fedsite.dataset.manifest import CaseRecord, Exclusion, InputState, Remark, Split, Triple
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import ImageSource, Study, exclusion
from fedsite.dicom.checks import Finding, VolumeRefused
from fedsite.errors import DataNotFit
from fedsite.tasks import registry
from fedsite.tasks.description import Task


@dataclass(frozen=True)
class Settings:
    """What all studies of a run share. `out` is None when nothing is to be stored."""

    task: str
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


@dataclass(frozen=True)
class _Loaded:
    """A study's voxels on their own grid: image float32 [C, i, j, k], mask uint8 [i, j, k]."""

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]
    input_state: InputState


def prepare_study(work: Work, settings: Settings) -> Result:
    """Makes a case of a study, or the exclusion that says why not.

    Raises SourceMissing when the source vanishes meanwhile, CannotWrite when the case cannot be stored.
    """
    task = registry.get(settings.task)
    loaded, findings = _load(work.study, task)
    if loaded is None:
        return Result(_excluded(work, findings))
    image, label = _preprocess(loaded, task.name, settings.spacing_mm)
    if loaded.mask.any() and not label.any():
        findings.append(finding("label-lost", work.study.id))
    try:
        encoded = cases.encode_case(work.study.id, image, label)
    except DataNotFit:
        findings.append(finding("case-not-storable", work.study.id))
        return Result(_excluded(work, findings))
    record = _record(work, loaded, label, encoded, findings)
    if settings.out is None:
        return Result(record, pictures.look(image, label, settings.spacing_mm))
    cases.store_case(settings.out, encoded)
    return Result(record)


def _load(study: Study, task: Task) -> tuple[_Loaded | None, list[Finding]]:
    """Reads and checks. Nothing is loaded when one of the findings is an error."""
    findings = [remark for image in study.images for remark in image.findings]
    reference = study.images[0]
    channels: list[NDArray[np.float32]] = []
    for image in study.images:
        voxels, problems = _read_image(image, reference)
        findings += problems
        if voxels is None:
            return None, findings
        channels.append(voxels)
    mask, problems = _read_mask(study, reference, task)
    findings += problems
    if mask is None:
        return None, findings
    state, doubtful = checks.input_state(channels[0], task.channels[0].modality)
    if doubtful:
        findings.append(finding("input-state-doubtful", study.id, state=state))
    return _Loaded(np.stack(channels), mask, reference.affine, state), findings


def _read_image(image: ImageSource, reference: ImageSource) -> tuple[NDArray[np.float32] | None, list[Finding]]:
    if image.shape != reference.shape:
        return None, [finding("channel-on-other-grid", image.id, reason="their sizes differ")]
    distance = checks.corner_distance(image.affine, reference.affine, reference.shape)
    if distance > checks.SNAP_MM:
        reason = f"their corners lie {distance:.2f} mm apart"
        return None, [finding("channel-on-other-grid", image.id, reason=reason)]
    try:
        voxels = image.read()
    except VolumeRefused as error:
        return None, list(error.findings)
    except DataNotFit as error:
        return None, [finding("image-unreadable", image.id, reason=error.message)]
    problems = checks.check_image(voxels, image.id)
    return (None if problems else voxels), problems


def _read_mask(study: Study, reference: ImageSource, task: Task) -> tuple[NDArray[np.uint8] | None, list[Finding]]:
    try:
        placed = study.mask.read(reference)
    except DataNotFit as error:
        return None, [finding("label-unreadable", reference.id, reason=error.message)]
    findings = list(placed.findings)
    if placed.fits:
        findings += checks.check_label(placed.values, task.labels, reference.id)
    if any(problem.severity == "error" for problem in findings):
        return None, findings
    return np.rint(placed.values).astype(np.uint8), findings


@cache
def _transforms(task: str, spacing_mm: Triple) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return registry.module(task).preprocessing(spacing_mm)


def _preprocess(loaded: _Loaded, task: str, spacing_mm: Triple) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """The task's own MONAI transforms: image float16 [C, X, Y, Z], label uint8 [X, Y, Z] on the prepared grid."""
    import torch
    from monai.data.meta_tensor import MetaTensor

    affine = torch.from_numpy(loaded.affine)
    case = _transforms(task, spacing_mm)(
        {
            "image": MetaTensor(torch.from_numpy(loaded.image), affine=affine),
            "label": MetaTensor(torch.from_numpy(loaded.mask[None]), affine=affine),
        }
    )
    image, label = case["image"].numpy(), case["label"].numpy()
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and encode_case refuses it
        return image.astype(np.float16), np.rint(label[0]).astype(np.uint8)


def _record(
    work: Work, loaded: _Loaded, label: NDArray[np.uint8], encoded: cases.EncodedCase, findings: list[Finding]
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
        shape=label.shape,
        lesion_ml=round(float(np.count_nonzero(loaded.mask)) * voxel_ml, 4),
        source_shape=reference.shape,
        source_spacing_mm=(round(float(spacing[0]), 4), round(float(spacing[1]), 4), round(float(spacing[2]), 4)),
        b_value=reference.b_value,
        scanner=reference.scanner,
        input_state=loaded.input_state,
        fingerprint=work.fingerprint,
        findings=tuple(Remark.of(remark) for remark in findings),
    )


def _excluded(work: Work, findings: list[Finding]) -> Exclusion:
    return exclusion(work.study.id, work.study.patient, findings, work.fingerprint)
