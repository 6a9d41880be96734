"""Studies from a folder of NIfTI files named as BIDS does, masks included. ISLES'22 and ATLAS are read as they come.

A study is what shares subject and session (`sub-`, `ses-`). Images are taken by the channel's suffix (and `ce-`, where
an agent was given) from anywhere but `derivatives`, or from there if they lie nowhere else, as in ATLAS. Masks are
taken by their suffix from anywhere, or from a derivatives folder of their own.

A mask belongs to the images of its subject and session that it does not contradict (another `run-`, say). One that
names no session belongs to the only one of its subject, and so does one that lies in the space of an image of that
(`space-ncct`: ISLES'24 draws on a later MR what the CT is to show). Of several, those that name the image's space go
first, where it names none those that do not lie in a template's, and then those whose `label-` or `desc-` is a label of
the task before others. Masks of the brain are none.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.bids_images import read_image, without_identified
from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.names import as_text, file_pseudonym
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import Candidates, Collected, ImageSource, Progress, Pseudonyms, Unmarked, decide
from fedsite.dicom.checks import Finding
from fedsite.tasks.description import Channel, Layout, Task

# BIDS as any task can read it: masks hold the task's own values, under any of the usual names.
PLAIN = Layout("bids", "bids", label_values={})
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
    layout: Layout = PLAIN,
) -> Collected:
    """The studies of a BIDS folder. With `labels`, masks come from there and from nowhere else.

    With `require_deidentified` images are left out whose sidecars hold direct identifiers.
    """
    files = _named(source)
    folder = source if labels is None else labels
    masks = [file for file in (files if labels is None else _named(labels)) if _is_mask(file, layout)]
    raw = [file for file in files if "derivatives" not in file.path.relative_to(source).parts]
    images = raw if any(_of_channel(raw, channel) for channel in task.channels) else files
    by_study: dict[tuple[str, str], dict[str, list[_Named]]] = defaultdict(lambda: defaultdict(list))
    for channel in task.channels:
        for file in _of_channel(images, channel):
            by_study[file.key][channel.name].append(file)
    masks_of = _by_study(masks, by_study.keys(), task.channels[0])
    found = []
    for number, (key, channels) in enumerate(sorted(by_study.items()), start=1):
        known = {
            file: NiftiMask(file_pseudonym(folder, file.path, pseudonyms), file.path, layout.label_values)
            for file in masks_of.get(key, ())
        }
        found.append(_candidates(source, key, channels, known, task, pseudonyms))
        progress(number, len(by_study))
    if require_deidentified:
        found = [without_identified(candidates) for candidates in found]
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
    return pseudonyms.patient(as_text(key[0]), "bids")


def _study(key: tuple[str, str], pseudonyms: Pseudonyms) -> str:
    return pseudonyms.study(f"bids/{as_text(key[0])}/{as_text(key[1])}")


def _named(folder: Path) -> list[_Named]:
    named = []
    for path in nifti.find(folder):
        match = _NAME.match(nifti.stem(path))
        if match:
            others = frozenset(match["others"].lower().split("_")) - {""}
            key = (match["subject"], match["session"] or "")
            named.append(_Named(path, key, others, match["suffix"].lower()))
    return named


def _of_channel(files: Iterable[_Named], channel: Channel) -> list[_Named]:
    """The images of a channel's kind, by their names."""
    found = [file for file in files if file.suffix == channel.bids_suffix.lower()]
    if channel.contrast_agent is not None:
        found = [file for file in found if bool(file.entity("ce")) == channel.contrast_agent]
    return [file for file in found if not (channel.b_values and file.others & _MAPS)]


def _is_mask(file: _Named, layout: Layout) -> bool:
    suffixes = {layout.label.lower()} if layout.label else MASK_SUFFIXES
    return file.suffix in suffixes and _ANATOMY.isdisjoint(file.others)


def _by_study(
    masks: Iterable[_Named], studies: Collection[tuple[str, str]], first: Channel
) -> dict[tuple[str, str], list[_Named]]:
    """The masks of each study."""
    sessions: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for study in studies:
        sessions[study[0]].append(study)
    masks_of: dict[tuple[str, str], list[_Named]] = defaultdict(list)
    for mask in masks:
        subject, session = mask.key
        floats = not session or mask.entity("space") == f"space-{first.bids_suffix.lower()}"
        only = sessions[subject] if floats and len(sessions[subject]) == 1 else [mask.key]
        masks_of[only[0]].append(mask)
    return masks_of


def _masks_of(image: _Named, masks: Mapping[_Named, NiftiMask], task: Task) -> list[NiftiMask]:
    """The masks of a study that may be those of one of its images, by the rules above."""
    names = {name.lower() for value, name in task.labels.items() if value}
    called = {f"{entity}-{name}" for entity in ("label", "desc") for name in names}
    called |= {f"label-{_ABBREVIATIONS[name]}" for name in names & _ABBREVIATIONS.keys()}
    fitting = [mask for mask in masks if not any(_contradict(image, mask, entity) for entity in _ACQUISITION)]
    space = image.entity("space")
    at_home = [mask for mask in fitting if _is_at_home(mask.entity("space"), space)] or fitting
    return [masks[mask] for mask in [each for each in at_home if called & each.others] or at_home]


def _is_at_home(space: str, of_image: str) -> bool:
    return space == of_image if of_image else not space.startswith(_TEMPLATES)


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
