"""One study read and checked: its images on the grid of the first, its mask on the same, and what was found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import channels, checks, lesions
from fedsite.dataset.head import Head, find_head
from fedsite.dataset.manifest import InputState
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import ImageSource, MaskSource, Study, left_out
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
    findings = [*study.remarks, *(remark for image in study.images for remark in image.findings)]
    try:
        return _load(study, task, findings), findings
    except _Refused:
        return None, findings


@dataclass(frozen=True)
class _First:
    """What is known of a study's first image, on whose grid the others are brought. `state` is None if doubtful."""

    image: ImageSource
    values: Values
    head: Head
    mask: Mask
    state: InputState | None


def _load(study: Study, task: Task, findings: list[Finding]) -> Loaded:
    """As `load`, with every finding added to the list, and raising _Refused at the first error."""
    reference = study.images[0]
    values = _read_image(reference, findings)
    state, doubtful = checks.input_state(values, task.channels[0].modality)
    if doubtful:
        _tell(findings, [finding("input-state-doubtful", study.id, state=state)])
    mask = np.zeros_like(values, np.uint8) if study.mask is None else _read_mask(study.mask, task, reference, findings)
    head = find_head(values, reference.affine)
    _tell(findings, lesions.check_lesion(mask, head, state, reference.id))
    first = _First(reference, values, head, mask, None if doubtful else state)
    of_channel = {image.channel: image for image in study.images}
    images: dict[str, Values | None] = {task.channels[0].name: values}
    for channel in task.channels[1:]:
        image = of_channel.get(channel.name)
        images[channel.name] = None if image is None else _further(image, channel, first, findings)
    nothing = np.zeros_like(values)
    stacked = _stacked([nothing if each is None else each for each in images.values()])
    missing = tuple(name for name, each in images.items() if each is None)
    return Loaded(stacked, mask, reference.affine, state, missing)


def _further(image: ImageSource, channel: Channel, first: _First, findings: list[Finding]) -> Values | None:
    """Another image of the study; None for an optional one that cannot be used, which is told."""
    own: list[Finding] = []
    try:
        values = _placed(image, channel, first, own)
    except _Refused:
        if not channel.optional:
            findings += own
            raise
        problem = next(each for each in own if each.severity == "error")
        findings.append(left_out(image.id, channel, problem))
        return None
    findings += own
    return values


def _placed(image: ImageSource, channel: Channel, first: _First, findings: list[Finding]) -> Values:
    """The image on the grid of the first, with every finding added to the list. Raises _Refused."""
    _tell(findings, _place_problems(image, first.image))
    values = _read_image(image, findings)
    _tell(findings, _state_problems(values, image, channel, first.state))
    values, problems = _on_grid(values, image, first)
    _tell(findings, problems)
    _tell(findings, channels.shift_problems(first.values, values, first.image.affine, image))
    return values


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
    meanings = source.label_values or {value: value for value in task.labels}
    _tell(findings, checks.check_label(placed.values, {0, *meanings}, reference.id))
    mask = np.empty_like(placed.values, np.uint8)
    np.add(placed.values, 0.5, out=mask, casting="unsafe")  # the nearest whole number
    if all(stored == value for stored, value in meanings.items()):
        return mask
    values = np.zeros(256, np.uint8)
    values[[*meanings.keys()]] = [*meanings.values()]
    return values[mask]


def _state_problems(values: Values, image: ImageSource, channel: Channel, expected: InputState | None) -> list[Finding]:
    """Whether an image has its skull where the first has none, or the other way round.

    A map that a scanner computes says nothing about it: it is zero wherever there was too little signal.
    """
    if image.quantity or expected is None:
        return []
    state, doubtful = checks.input_state(values, channel.modality)
    if doubtful or state == expected:
        return []
    return [finding("channel-in-other-state", image.id, channel=image.channel, state=state, other=expected)]


def _on_grid(values: Values, image: ImageSource, first: _First) -> tuple[Values, list[Finding]]:
    """The image on the grid of the first, and what it does not show there."""
    reference = first.image
    if channels.same_grid(image, reference):
        return values, []
    resampled, covered = channels.resample(values, image.affine, reference.shape, reference.affine)
    return resampled, channels.coverage_problems(covered, first.head, first.mask, image)


def _stacked(images: list[Values]) -> Values:
    """[C, i, j, k]; each keeps its order in memory (Fortran's): to turn it round would cost as much as reading."""
    if len(images) == 1:
        return images[0][None]
    return np.stack([image.T for image in images]).transpose(0, 3, 2, 1)
