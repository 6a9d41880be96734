"""One study read and checked: its images on the grid of the first, its mask on the same, and what was found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import channels, checks, lesions
from fedsite.dataset.head import Head, find_head
from fedsite.dataset.manifest import InputState
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import ImageSource, MaskSource, Study
from fedsite.dicom.checks import Finding, VolumeRefused
from fedsite.errors import DataNotFit
from fedsite.tasks.description import Channel, Task

Values = NDArray[np.float32]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Loaded:
    """A study's voxels on the grid of its first image: image float32 [C, i, j, k], mask uint8 [i, j, k].

    `missing` names the optional channels that it does not have: they are zero.
    """

    image: Values
    mask: Mask
    affine: NDArray[np.float64]
    input_state: InputState
    missing: tuple[str, ...] = ()


class _Refused(Exception):
    """What was found is an error: there is no need to read on."""


def load(study: Study, task: Task) -> tuple[Loaded | None, list[Finding]]:
    """Reads and checks. Nothing is loaded when one of the findings is an error. Raises SourceMissing."""
    findings = [remark for image in study.images for remark in image.findings]
    try:
        return _load(study, task, findings), findings
    except _Refused:
        return None, findings


def _load(study: Study, task: Task, findings: list[Finding]) -> Loaded:
    """As `load`, with every finding added to the list, and raising _Refused at the first error."""
    reference = study.images[0]
    _tell(findings, [problem for image in study.images[1:] for problem in _place_problems(image, reference)])
    first = _read_image(reference, findings)
    state, doubtful = checks.input_state(first, task.channels[0].modality)
    if doubtful:
        _tell(findings, [finding("input-state-doubtful", study.id, state=state)])
    mask = np.zeros_like(first, np.uint8) if study.mask is None else _read_mask(study.mask, task, reference, findings)
    head = find_head(first, reference.affine)
    _tell(findings, lesions.check_lesion(mask, head, state, reference.id))
    of_channel = {image.channel: image for image in study.images}
    missing = tuple(channel.name for channel in task.channels if channel.name not in of_channel)
    images = [first]
    for channel in task.channels[1:]:
        image = of_channel.get(channel.name)
        if image is None:
            images.append(np.zeros_like(first))
            continue
        values = _read_image(image, findings)
        _tell(findings, [] if doubtful else _state_problems(values, image, channel, state))
        values, problems = _on_grid(values, image, reference, head, mask)
        _tell(findings, problems)
        _tell(findings, channels.shift_problems(first, values, reference.affine, image))
        images.append(values)
    return Loaded(_stacked(images), mask, reference.affine, state, missing)


def _tell(findings: list[Finding], problems: list[Finding]) -> None:
    findings += problems
    if any(problem.severity == "error" for problem in problems):
        raise _Refused


def _place_problems(image: ImageSource, reference: ImageSource) -> list[Finding]:
    if channels.comparable(image, reference):
        return []
    reason = "they share neither a grid nor a frame of reference"
    return [finding("channel-on-other-grid", image.id, reason=reason)]


def _read_image(image: ImageSource, findings: list[Finding]) -> Values:
    try:
        values = image.read()
    except VolumeRefused as error:
        findings += error.findings
        raise _Refused from None
    except DataNotFit as error:
        findings.append(finding("image-unreadable", image.id, reason=error.message))
        raise _Refused from None
    _tell(findings, checks.check_image(values, image.id))
    return values


def _read_mask(source: MaskSource, task: Task, reference: ImageSource, findings: list[Finding]) -> Mask:
    try:
        placed = source.read(reference)
    except DataNotFit as error:
        findings.append(finding("label-unreadable", reference.id, reason=error.message))
        raise _Refused from None
    _tell(findings, list(placed.findings))
    _tell(findings, checks.check_label(placed.values, task.labels, reference.id))
    mask = np.empty_like(placed.values, np.uint8)
    np.add(placed.values, 0.5, out=mask, casting="unsafe")  # the nearest whole number
    return mask


def _state_problems(values: Values, image: ImageSource, channel: Channel, expected: InputState) -> list[Finding]:
    """Whether an image has its skull where the first has none, or the other way round.

    A map that a scanner computes says nothing about it: it is zero wherever there was too little signal.
    """
    if image.quantity:
        return []
    state, doubtful = checks.input_state(values, channel.modality)
    if doubtful or state == expected:
        return []
    return [finding("channel-in-other-state", image.id, channel=image.channel, state=state, other=expected)]


def _on_grid(
    values: Values, image: ImageSource, reference: ImageSource, head: Head, mask: Mask
) -> tuple[Values, list[Finding]]:
    """The image on the grid of the first, and what it does not show there."""
    if channels.same_grid(image, reference):
        return values, []
    resampled, covered = channels.resample(values, image.affine, reference.shape, reference.affine)
    return resampled, channels.coverage_problems(covered, head, mask, image)


def _stacked(images: list[Values]) -> Values:
    """[C, i, j, k]; each keeps its order in memory (Fortran's): to turn it round would cost as much as reading."""
    if len(images) == 1:
        return images[0][None]
    return np.stack([image.T for image in images]).transpose(0, 3, 2, 1)
