"""Which mask belongs to which image of a DICOM export: by what it refers to or is named after, never by guessing.

- A DICOM label object belongs to the image whose slices it names; if it names none, to those of its study that lie in
  its frame of reference; if it has none, it is paired as other files are.
- A file belongs to the image that it is named after: its name, without a trailing word such as `_mask` or `-lesion`,
  equals one of the image's keys: SeriesInstanceUID, StudyInstanceUID, AccessionNumber or PatientID.

Either may have been drawn on a sister of the image: a volume of the same study and frame of reference on the same grid
(b0, ADC).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedsite.dataset import nifti
from fedsite.dataset.checks import SNAP_MM, corner_distance
from fedsite.dataset.masks import LabelMask, NiftiMask
from fedsite.dataset.studies import MaskSource
from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.labels.objects import LabelObject
from fedsite.dicom.model import Volume

_TRAILING_WORD = re.compile(r"[-_. ](?:mask|msk|labels?|lesions?|seg|segmentation|roi)$", re.IGNORECASE)
_OTHER_GRID = "it was drawn on an image of the study that is on another grid than the one of the task"
_NOT_HERE = "the images that it names are not among those of the study"
_NAMES_NONE = "it names no images, and its file is not named after any"


class Image(Protocol):
    """An image that a study may be made of: its pseudonym, its volumes, and the identifiers that name it."""

    @property
    def id(self) -> str:
        """The pseudonym."""
        ...

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """What it is made of."""
        ...

    @property
    def keys(self) -> frozenset[str]:
        """The identifiers that a mask may be named after (never written anywhere)."""
        ...


@dataclass
class Pairing:
    """The masks of each image (by its pseudonym), and those that belong to none.

    `contested` gives, for an image whose mask is named after others too, all that it is named after; `strays`, by
    study, why masks of the study fit none of its images; `unpaired` counts those that belong to no study with images.
    """

    masks: dict[str, list[MaskSource]] = field(default_factory=lambda: defaultdict(list), repr=False)
    contested: dict[str, frozenset[str]] = field(default_factory=dict)
    strays: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    unpaired: int = 0


def pair(
    files: Iterable[NiftiMask],
    objects: Iterable[tuple[str, LabelObject]],
    images: Sequence[Image],
    volumes: Sequence[Volume],
    names: Mapping[int, str],
) -> Pairing:
    """Pairs masks with images by the rules above. What fits several images is given to all of them.

    `objects` come with their pseudonyms; `volumes` are all images that the source holds; `names` gives the task's
    labels by value, without the background.
    """
    pairing = Pairing()
    source = _Source(images, volumes)
    for mask in files:
        named = source.named(nifti.stem(mask.path))
        fitting = source.fitting(named)
        for image, _ in fitting:
            pairing.masks[image.id].append(mask)
        if len(fitting) > 1:
            rivals = frozenset(image.id for image, _ in fitting)
            pairing.contested |= dict.fromkeys(rivals, rivals)
        if not fitting:
            _stray(pairing, source, mask.id, {volume.study for volume in named}, _OTHER_GRID)
    for name, label in objects:
        named = source.drawn_on(label)
        fitting = source.fitting(named)
        for image, drawn_on in fitting:
            pairing.masks[image.id].append(LabelMask(name, label, drawn_on, names))
        if not fitting:
            reason = _OTHER_GRID if named else _NOT_HERE if label.has_references else _NAMES_NONE
            _stray(pairing, source, name, source.studies(label), reason)
    return pairing


def possible_names(stem: str) -> frozenset[str]:
    """A file's stem, and what remains of it as its trailing words are taken off one by one."""
    names = {stem}
    while shorter := _TRAILING_WORD.sub("", stem):
        if shorter == stem:
            break
        names.add(shorter)
        stem = shorter
    return frozenset(names)


class _Source:
    """The volumes of a source, to be found by what names them."""

    def __init__(self, images: Sequence[Image], volumes: Sequence[Volume]) -> None:
        self._images_of: dict[str, list[Image]] = defaultdict(list)
        for image in images:
            self._images_of[image.volumes[0].study].append(image)
        self._by_key: dict[str, list[Volume]] = defaultdict(list)
        self._by_instance: dict[str, list[Volume]] = defaultdict(list)
        for volume in volumes:
            for key in volume.keys:
                self._by_key[key].append(volume)
            for instance in {frame.instance.sop_instance for frame in volume.frames}:
                self._by_instance[instance].append(volume)

    def named(self, stem: str) -> list[Volume]:
        """The volumes that a file is named after."""
        return _sorted(volume for name in possible_names(stem) for volume in self._by_key.get(name, ()))

    def drawn_on(self, label: LabelObject) -> list[Volume]:
        """The volumes that a label object names, by the surest of its references."""
        if label.referenced_instances:
            return _sorted(volume for uid in label.referenced_instances for volume in self._by_instance.get(uid, ()))
        if label.referenced_series:
            return _sorted(volume for uid in label.referenced_series for volume in self._by_key.get(uid, ()))
        if label.frames_of_reference:
            of_study = self._by_key.get(label.study, ())
            return [volume for volume in of_study if volume.frame_of_reference in label.frames_of_reference]
        return self.named(Path(label.member or label.path).stem)

    def studies(self, label: LabelObject) -> set[str]:
        """The studies (by pseudonym) that a label object says it belongs to, or that hold a series that it names."""
        uids = {label.study, *label.referenced_series}
        return {volume.study for uid in uids for volume in self._by_key.get(uid, ())}

    def fitting(self, named: Sequence[Volume]) -> list[tuple[Image, tuple[Volume, ...]]]:
        """The images that are among some volumes, else the sisters of these; with the volumes on their grid."""
        found: list[tuple[Image, bool, tuple[Volume, ...]]] = []
        for study in sorted({volume.study for volume in named}):
            for image in self._images_of.get(study, ()):
                members = {volume.id for volume in image.volumes}
                own = [volume for volume in named if volume.id in members]
                sisters = [volume for volume in named if _are_sisters(volume, image.volumes[0])]
                found.append((image, bool(own), tuple(dict.fromkeys([*own, *sisters]))))
        direct = [(image, alike) for image, is_own, alike in found if is_own]
        return direct or [(image, alike) for image, _, alike in found if alike]

    def has_images(self, study: str) -> bool:
        """Whether a study holds an image that the task can take."""
        return study in self._images_of


def _stray(pairing: Pairing, source: _Source, name: str, studies: set[str], reason: str) -> None:
    with_images = [study for study in sorted(studies) if source.has_images(study)]
    for study in with_images:
        pairing.strays[study].append(finding("label-wrong-reference", name, reason=reason))
    pairing.unpaired += not with_images


def _are_sisters(one: Volume, other: Volume) -> bool:
    """Whether two volumes share study, frame of reference and grid (NaN in an affine compares as False)."""
    if one.study != other.study or one.shape != other.shape:
        return False
    same_frame = one.frame_of_reference == other.frame_of_reference != ""
    return same_frame and corner_distance(one.affine, other.affine, one.shape) <= SNAP_MM


def _sorted(volumes: Iterable[Volume]) -> list[Volume]:
    """Each volume once, in an order that depends on nothing but the pseudonyms."""
    return sorted(set(volumes), key=lambda volume: volume.id)
