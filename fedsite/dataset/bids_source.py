"""Studies from a folder of NIfTI files named as BIDS does, masks included. ISLES'22 is read as it comes.

A study is what shares subject and session (`sub-`, `ses-`). Images are taken by the channel's suffix from anywhere
but `derivatives`, masks by theirs from anywhere; a brain mask (`desc-brain`) is no lesion mask.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedsite.dataset import nifti
from fedsite.dataset.bids_images import read_image
from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import Candidates, Collected, ImageSource, Progress, Pseudonyms, decide
from fedsite.dicom import deidentification
from fedsite.dicom.checks import Finding
from fedsite.errors import DataNotFit
from fedsite.tasks.description import Channel, Task

MASK_SUFFIXES = frozenset({"mask", "msk", "label", "labels", "lesion", "seg", "dseg", "roi"})
_NAME = re.compile(r"^sub-(?P<subject>[^_]+)(?:_ses-(?P<session>[^_]+))?(?P<others>(?:_[^_]+)*?)_(?P<suffix>[^_]+)$")
_MAPS = frozenset({"rec-adc", "rec-fa", "rec-b0", "desc-adc", "desc-fa", "desc-b0"})


@dataclass(frozen=True)
class _Named:
    """A file with the BIDS entities of its name."""

    path: Path = field(repr=False)
    key: tuple[str, str]
    others: frozenset[str]
    suffix: str


def collect(
    source: Path,
    labels: Path | None,
    task: Task,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    require_deidentified: bool = False,
) -> Collected:
    """The studies of a BIDS folder. With `labels`, masks come from there and from nowhere else.

    With `require_deidentified` images are left out whose sidecars hold direct identifiers.
    """
    files = _named(source)
    folder = source if labels is None else labels
    masks = [file for file in (files if labels is None else _named(labels)) if _is_mask(file)]
    images = [file for file in files if "derivatives" not in file.path.relative_to(source).parts]
    by_study: dict[tuple[str, str], dict[str, list[_Named]]] = defaultdict(lambda: defaultdict(list))
    for file in images:
        for channel in task.channels:
            if file.suffix == channel.bids_suffix.lower() and not (channel.b_values and file.others & _MAPS):
                by_study[file.key][channel.name].append(file)
    masks_of: dict[tuple[str, str], list[NiftiMask]] = defaultdict(list)
    for mask in masks:
        masks_of[mask.key].append(NiftiMask(_series(folder, mask.path, pseudonyms), mask.path))
    found = []
    for number, (key, channels) in enumerate(sorted(by_study.items()), start=1):
        found.append(_candidates(source, key, channels, masks_of.get(key, []), task, pseudonyms))
        progress(number, len(by_study))
    if require_deidentified:
        found = [_without_identified(candidates) for candidates in found]
    studies, excluded = decide(found, task)
    unpaired = sum(len(paths) for key, paths in masks_of.items() if key not in by_study)
    remarks = (finding("label-unpaired", count=unpaired),) if unpaired else ()
    return Collected("bids", tuple(studies), tuple(excluded), remarks)


def named(source: Path, pseudonyms: Pseudonyms) -> Iterator[tuple[Path, str, str, str]]:
    """Every NIfTI file named as BIDS does, masks included, with the pseudonyms of its patient, study and itself."""
    for file in _named(source):
        yield (
            file.path,
            _patient(file.key, pseudonyms),
            _study(file.key, pseudonyms),
            _series(source, file.path, pseudonyms),
        )


def _patient(key: tuple[str, str], pseudonyms: Pseudonyms) -> str:
    return pseudonyms.patient(_text(key[0]), "bids")


def _study(key: tuple[str, str], pseudonyms: Pseudonyms) -> str:
    return pseudonyms.study(f"bids/{_text(key[0])}/{_text(key[1])}")


def _series(source: Path, path: Path, pseudonyms: Pseudonyms) -> str:
    return pseudonyms.series(f"bids/{_text(path.relative_to(source))}")


def _named(folder: Path) -> list[_Named]:
    named = []
    for path in nifti.find(folder):
        match = _NAME.match(nifti.stem(path))
        if match:
            others = frozenset(match["others"].lower().split("_")) - {""}
            key = (match["subject"], match["session"] or "")
            named.append(_Named(path, key, others, match["suffix"].lower()))
    return named


def _is_mask(file: _Named) -> bool:
    return file.suffix in MASK_SUFFIXES and "desc-brain" not in file.others


def _candidates(
    source: Path,
    key: tuple[str, str],
    channels: Mapping[str, list[_Named]],
    masks: list[NiftiMask],
    task: Task,
    pseudonyms: Pseudonyms,
) -> Candidates:
    images: dict[str, list[ImageSource]] = {}
    refused: list[Finding] = []
    for channel in task.channels:
        files = channels.get(channel.name, [])
        traces = [file for file in files if "rec-trace" in file.others] if channel.b_values else []
        for file in traces or files:
            name = _series(source, file.path, pseudonyms)
            image = read_image(file.path, name, channel)
            if isinstance(image, ImageSource):
                images.setdefault(channel.name, []).append(image)
            else:
                refused.append(image)
    reference = images.get(task.channels[0].name, [])
    return Candidates(
        id=_study(key, pseudonyms),
        patient=_patient(key, pseudonyms),
        images=images,
        masks={image.id: masks for image in reference},
        refused=tuple(refused),
    )


def _without_identified(found: Candidates) -> Candidates:
    """What remains of a study's images when those are refused whose sidecars say who the patient is."""
    kept: dict[str, list[ImageSource]] = {}
    refused: list[Finding] = []
    for channel, images in found.images.items():
        for image in images:
            told = deidentification.told_by(nifti.read_sidecar(image.files[0]))
            if told:
                refused.append(finding("direct-identifiers", image.id, what=told))
            else:
                kept.setdefault(channel, []).append(image)
    return replace(found, images=kept, refused=(*found.refused, *refused))


def _text(name: str | Path) -> str:
    """A file's name as text for a pseudonym, also where it is not UTF-8."""
    return os.fsencode(name).decode("latin-1")
