"""Studies: what a source holds for a task, not read yet, each decided on: it can become a case, or is left out.

Every kind of source ends in `Candidates`, one for each study; `decide` takes one image a channel and one mask from
each, or gives the findings that say why it cannot.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import identity, nifti
from fedsite.dataset.checks import PlacedMask
from fedsite.dataset.manifest import Exclusion, Remark, SourceKind
from fedsite.dataset.rules import finding
from fedsite.dicom.checks import Finding
from fedsite.dicom.model import Volume
from fedsite.tasks.description import Channel, Task

Progress = Callable[[int, int], None]
Affine = NDArray[np.float64]


class Pseudonyms(Protocol):
    """The site's keyed pseudonyms (`fedsite.site.pseudonyms`)."""

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """For a patient."""
        ...

    def study(self, uid: str) -> str:
        """For a study."""
        ...

    def series(self, uid: str, part: str = "") -> str:
        """For a series, or one part of a divided one."""
        ...

    def path(self, text: str) -> str:
        """For a file."""
        ...

    def fraction(self, pseudonym: str) -> float:
        """A number in [0, 1) for the split."""
        ...


@dataclass(frozen=True)
class ImageSource:
    """One channel's image of one study, not read yet: shape and affine (array order, RAS mm) as its headers say."""

    id: str
    channel: str
    shape: tuple[int, int, int]
    affine: Affine
    b_value: float | None
    scanner: str
    findings: tuple[Finding, ...]
    files: tuple[Path, ...] = field(repr=False)
    origin: Path | nifti.Part | Volume | tuple[Volume, ...] = field(repr=False)
    frame_of_reference: str = field(default="", repr=False)
    quantity: Literal["", "adc"] = ""

    def read(self) -> NDArray[np.float32]:
        """The voxels [i, j, k] in the order that `affine` describes; of several volumes the geometric mean.

        Raises DataNotFit, SourceMissing.
        """
        from fedsite.dataset import derived

        voxels = self._read()
        return derived.adc_in_usual_unit(voxels) if self.quantity == "adc" else voxels

    def _read(self) -> NDArray[np.float32]:
        from fedsite.dataset import derived
        from fedsite.dicom.voxels.reading import read_volume

        if isinstance(self.origin, Path):
            return nifti.read_voxels(self.origin)
        if isinstance(self.origin, nifti.Part):
            path, volumes = self.origin.path, self.origin.volumes
            one = len(volumes) == 1
            return nifti.read_voxels(path, volumes[0]) if one else derived.geometric_mean(nifti.read_part(self.origin))
        if isinstance(self.origin, tuple):
            return derived.geometric_mean(read_volume(volume) for volume in self.origin)
        return read_volume(self.origin)


class MaskSource(Protocol):
    """A mask of one study, not read yet, whatever it is kept in (`masks`)."""

    @property
    def id(self) -> str:
        """Its pseudonym."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the mask is made of."""
        ...

    @property
    def label_values(self) -> Mapping[int, int]:
        """From the values that are stored to the task's; empty where they are the same."""
        ...

    def read(self, reference: ImageSource) -> PlacedMask:
        """The values [i, j, k] in the array order of the reference image, or findings that say why they do not fit.

        Raises DataNotFit when a file cannot be read, SourceMissing when it is gone.
        """
        ...


@dataclass(frozen=True)
class Study:
    """A study that can become a case: an image for each channel of the task, and one mask (None: to be predicted).

    Optional images may lack; `remarks` say so where one is there that cannot be used.
    """

    id: str
    patient: str
    images: tuple[ImageSource, ...]
    mask: MaskSource | None = field(repr=False)
    remarks: tuple[Finding, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the case is made of."""
        own = self.mask.files if self.mask else ()
        return (*(file for image in self.images for file in image.files), *own)


@dataclass(frozen=True)
class Unmarked:
    """That studies are wanted without their masks. `named` are ids of images that are meant where several would do."""

    named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidates:
    """What was found for one study before it is decided on.

    `masks` gives the masks that name an image of the task's first channel; `contested`, for an image whose mask
    names others as well, all those images; `refused` says of a channel why what it might have wanted is not in
    `images`, `strays` why masks of the study fit none of its images.
    """

    id: str
    patient: str
    images: Mapping[str, Sequence[ImageSource]]
    masks: Mapping[str, Sequence[MaskSource]] = field(repr=False)
    contested: Mapping[str, frozenset[str]] = field(default_factory=dict)
    refused: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    strays: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Collected:
    """Everything that a source holds for a task; `findings` are those that belong to no study."""

    kind: SourceKind
    studies: tuple[Study, ...]
    excluded: tuple[Exclusion, ...]
    findings: tuple[Finding, ...]


def decide(
    found: Iterable[Candidates], task: Task, unmarked: Unmarked | None = None
) -> tuple[list[Study], list[Exclusion]]:
    """Takes exactly one image a channel and one mask from each study's candidates, or says why it cannot.

    A study is kept without an optional image; where there is one that cannot be used, that is told.
    """
    studies: list[Study] = []
    excluded: list[Exclusion] = []
    for candidates in found:
        outcome = _decide_one(candidates, task, unmarked)
        if isinstance(outcome, Study):
            studies.append(outcome)
        else:
            excluded.append(outcome)
    return studies, excluded


def left_out(where: str, channel: Channel, problem: Finding) -> Finding:
    """What is told where an optional image is there and cannot be used."""
    return finding("channel-left-out", where, channel=channel.name, reason=problem.message)


def exclusion(study: str, patient: str, findings: Iterable[Finding], fingerprint: str = "") -> Exclusion:
    """The record of a study that is left out."""
    remarks = tuple(Remark.of(remark) for remark in findings)
    return Exclusion(id=study, patient=patient, findings=remarks, fingerprint=fingerprint)


def _decide_one(candidates: Candidates, task: Task, unmarked: Unmarked | None) -> Study | Exclusion:
    named = unmarked.named if unmarked else {image for image, masks in candidates.masks.items() if masks}
    chosen: list[ImageSource] = []
    problems: list[Finding] = []
    remarks: list[Finding] = []
    for channel in task.channels:
        images = list(candidates.images.get(channel.name, ()))
        if len(images) > 1:
            # A mask, or a person, that names one of them has made the choice.
            images = [image for image in images if image.id in named] or images
        if len(images) == 1:
            chosen += images
        elif not channel.optional:
            problems += _channel_problems(candidates, channel, images)
        elif images or candidates.refused.get(channel.name):
            remarks.append(left_out(candidates.id, channel, _channel_problems(candidates, channel, images)[-1]))
    problems = problems or identity.doubts(candidates.id, (each for image in chosen for each in image.findings))
    problems = problems or ([] if unmarked else _mask_problems(candidates, chosen[0].id))
    if problems:
        return exclusion(candidates.id, candidates.patient, problems)
    mask = None if unmarked else candidates.masks[chosen[0].id][0]
    return Study(candidates.id, candidates.patient, tuple(chosen), mask, tuple(remarks))


def _channel_problems(candidates: Candidates, channel: Channel, images: Sequence[ImageSource]) -> list[Finding]:
    """Why none of a study's images, of which there is not just one, is taken for a channel."""
    if not images:
        missing = finding("channel-missing", candidates.id, kind=channel.summary)
        return [missing, *candidates.refused.get(channel.name, ())]
    names = ", ".join(sorted(image.id for image in images))
    return [finding("several-candidates", candidates.id, count=len(images), kind=channel.summary, images=names)]


def _mask_problems(candidates: Candidates, image: str) -> list[Finding]:
    masks = candidates.masks.get(image, ())
    rivals = candidates.contested.get(image)
    if rivals:
        return [finding("label-contested", candidates.id, count=len(rivals), images=", ".join(sorted(rivals)))]
    if len(masks) > 1:
        names = ", ".join(sorted(mask.id for mask in masks))
        return [finding("label-ambiguous", candidates.id, count=len(masks), masks=names)]
    return [] if masks else [*candidates.strays] or [finding("label-missing", candidates.id)]
