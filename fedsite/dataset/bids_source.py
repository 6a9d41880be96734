"""Studies from a folder of NIfTI files named as BIDS does, masks included. ISLES'22 is read as it comes.

A study is what shares subject and session (`sub-`, `ses-`). Images are taken by the channel's suffix from anywhere
but `derivatives`, masks by theirs from anywhere, or from a derivatives folder of their own.

A mask belongs to the images of its subject and session that it does not contradict (another `run-`, say); one that
names no session to the only one of its subject. Of several, those in the image's own space go before those in a
template's, and then those whose `label-` or `desc-` is a label of the task before others. Masks of the brain are none.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.bids_images import read_image
from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import Candidates, Collected, ImageSource, Progress, Pseudonyms, Unmarked, decide
from fedsite.dicom.checks import Finding
from fedsite.dicom.header import deidentification
from fedsite.tasks.description import Task

MASK_SUFFIXES = frozenset({"mask", "msk", "label", "labels", "lesion", "seg", "dseg", "roi"})
_NAME = re.compile(r"^sub-(?P<subject>[^_]+)(?:_ses-(?P<session>[^_]+))?(?P<others>(?:_[^_]+)*?)_(?P<suffix>[^_]+)$")
_MAPS = frozenset({"rec-adc", "rec-fa", "rec-b0", "desc-adc", "desc-fa", "desc-b0"})
_ANATOMY = frozenset(
    {"desc-brain", "desc-brainmask", "label-brain", "label-gm", "label-wm", "label-csf", "desc-aseg", "desc-aparcaseg"}
)
# Entities that tell one acquisition from another; a derivative keeps those of what it was made from.
_ACQUISITION = ("acq", "ce", "dir", "echo", "part", "rec", "run")
# Beginnings of the names of spaces that no patient's image lies in (BIDS, appendix "Coordinate systems").
_TEMPLATES = tuple(
    f"space-{name}" for name in ("mni", "icbm", "talairach", "nihpd", "oasis", "fsaverage", "unc", "whs")
)
# BIDS's abbreviations of what a mask shows, where it has one.
_ABBREVIATIONS = {"lesion": "l"}


@dataclass(frozen=True)
class _Named:
    """A file with the BIDS entities of its name."""

    path: Path = field(repr=False)
    key: tuple[str, str]
    others: frozenset[str]
    suffix: str

    def entity(self, name: str) -> str:
        """What the name says of one entity, such as `run`; "" where it says nothing."""
        return next((entity for entity in self.others if entity.startswith(f"{name}-")), "")


def collect(
    source: Path,
    labels: Path | None,
    task: Task,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    require_deidentified: bool = False,
    unmarked: Unmarked | None = None,
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
    masks_of = _by_study(masks, by_study.keys())
    found = []
    for number, (key, channels) in enumerate(sorted(by_study.items()), start=1):
        known = {
            file: NiftiMask(file_pseudonym(folder, file.path, pseudonyms), file.path) for file in masks_of.get(key, ())
        }
        found.append(_candidates(source, key, channels, known, task, pseudonyms))
        progress(number, len(by_study))
    if require_deidentified:
        found = [_without_identified(candidates) for candidates in found]
    studies, excluded = decide(found, task, unmarked)
    unpaired = sum(len(files) for key, files in masks_of.items() if key not in by_study)
    remarks = (finding("label-unpaired", count=unpaired),) if unpaired and not unmarked else ()
    return Collected("bids", tuple(studies), tuple(excluded), remarks)


def named(source: Path, pseudonyms: Pseudonyms) -> Iterator[tuple[Path, str, str, str]]:
    """Every NIfTI file named as BIDS does, masks included, with the pseudonyms of its patient, study and itself."""
    for file in _named(source):
        yield (
            file.path,
            _patient(file.key, pseudonyms),
            _study(file.key, pseudonyms),
            file_pseudonym(source, file.path, pseudonyms),
        )


def _patient(key: tuple[str, str], pseudonyms: Pseudonyms) -> str:
    return pseudonyms.patient(_text(key[0]), "bids")


def _study(key: tuple[str, str], pseudonyms: Pseudonyms) -> str:
    return pseudonyms.study(f"bids/{_text(key[0])}/{_text(key[1])}")


def file_pseudonym(source: Path, path: Path, pseudonyms: Pseudonyms) -> str:
    """The pseudonym of a NIfTI file, by its place in a folder."""
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
    return file.suffix in MASK_SUFFIXES and _ANATOMY.isdisjoint(file.others)


def _by_study(masks: Iterable[_Named], studies: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[_Named]]:
    """The masks of each study."""
    sessions: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for study in studies:
        sessions[study[0]].append(study)
    masks_of: dict[tuple[str, str], list[_Named]] = defaultdict(list)
    for mask in masks:
        subject, session = mask.key
        only = sessions[subject] if not session and len(sessions[subject]) == 1 else [mask.key]
        masks_of[only[0]].append(mask)
    return masks_of


def _masks_of(image: _Named, masks: Mapping[_Named, NiftiMask], task: Task) -> list[NiftiMask]:
    """The masks of a study that may be those of one of its images, by the rules above."""
    names = {name.lower() for value, name in task.labels.items() if value}
    called = {f"{entity}-{name}" for entity in ("label", "desc") for name in names}
    called |= {f"label-{_ABBREVIATIONS[name]}" for name in names & _ABBREVIATIONS.keys()}
    fitting = [mask for mask in masks if not any(_contradict(image, mask, entity) for entity in _ACQUISITION)]
    at_home = [mask for mask in fitting if not mask.entity("space").startswith(_TEMPLATES)] or fitting
    return [masks[mask] for mask in [each for each in at_home if called & each.others] or at_home]


def _contradict(image: _Named, mask: _Named, entity: str) -> bool:
    stated = {image.entity(entity), mask.entity(entity)} - {""}
    return len(stated) > 1


def _candidates(
    source: Path,
    key: tuple[str, str],
    channels: Mapping[str, list[_Named]],
    masks: Mapping[_Named, NiftiMask],
    task: Task,
    pseudonyms: Pseudonyms,
) -> Candidates:
    images: dict[str, list[ImageSource]] = {}
    own: dict[str, list[NiftiMask]] = {}
    refused: dict[str, list[Finding]] = defaultdict(list)
    for channel in task.channels:
        files = channels.get(channel.name, [])
        traces = [file for file in files if "rec-trace" in file.others] if channel.b_values else []
        for file in traces or files:
            name = file_pseudonym(source, file.path, pseudonyms)
            image = read_image(file.path, name, channel)
            if isinstance(image, ImageSource):
                images.setdefault(channel.name, []).append(image)
                if channel == task.channels[0]:
                    own[image.id] = _masks_of(file, masks, task)
            else:
                refused[channel.name].append(image)
    return Candidates(
        id=_study(key, pseudonyms),
        patient=_patient(key, pseudonyms),
        images=images,
        masks=own,
        refused=refused,
    )


def _without_identified(found: Candidates) -> Candidates:
    """What remains of a study's images when those are refused whose sidecars say who the patient is."""
    kept: dict[str, list[ImageSource]] = {}
    refused = {channel: list(problems) for channel, problems in found.refused.items()}
    for channel, images in found.images.items():
        for image in images:
            told = deidentification.told_by(nifti.read_sidecar(image.files[0]))
            if told:
                problem = finding("direct-identifiers", image.id, what=told)
                refused.setdefault(channel, []).append(problem)
            else:
                kept.setdefault(channel, []).append(image)
    return replace(found, images=kept, refused=refused)


def _text(name: str | Path) -> str:
    """A file's name as text for a pseudonym, also where it is not UTF-8."""
    return os.fsencode(name).decode("latin-1")
