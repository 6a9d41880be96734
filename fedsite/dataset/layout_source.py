"""Studies from public data sets that are no BIDS: the folders of the Decathlon (and of nnU-Net), those of BraTS.

What files are called comes from the task's `Layout`. A study is what shares a name. In BraTS 2023 and later that name
ends in the number of the examination (`BraTS-GLI-00005-001`), so that one patient may have several studies.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.bids_images import read_image, without_identified
from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.names import as_text, file_pseudonym
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import Candidates, Collected, ImageSource, Progress, Pseudonyms, Unmarked, decide
from fedsite.dicom.checks import Finding
from fedsite.errors import DataNotFit
from fedsite.tasks.description import Layout, Task

DESCRIPTION = "dataset.json"
_ENDED = re.compile(r"^(?P<name>.+)[-_](?P<ending>[^-_]+)$")
_NUMBERED = re.compile(r"^(?P<name>.+)_(?P<number>[0-9]{4})$")
_EXAMINED = re.compile(r"^(?P<patient>.+-[0-9]{5})-[0-9]{3}$")
# Of the channels that tasks have, what dataset.json calls them.
_CALLED = {
    "t1": ("t1", "t1w", "t1n"),
    "t1c": ("t1c", "t1gd", "t1ce"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
    "dwi": ("dwi",),
    "adc": ("adc",),
    "ct": ("ct",),
}

# A file, and which of its volumes (None: it holds but one).
Place = tuple[Path, int | None]


@dataclass
class Group:
    """The files of one study: images by channel, and masks."""

    name: str
    images: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    masks: list[Path] = field(default_factory=list)

    @property
    def patient(self) -> str:
        """Whose study it is."""
        match = _EXAMINED.match(self.name)
        return match["patient"] if match else self.name


def collect(
    source: Path,
    labels: Path | None,
    task: Task,
    pseudonyms: Pseudonyms,
    progress: Progress,
    require_deidentified: bool,
    unmarked: Unmarked | None,
    layout: Layout,
) -> Collected:
    """The studies of such a folder. With `labels`, masks come from there and from nowhere else.

    With `require_deidentified` images are left out whose sidecars hold direct identifiers. Raises DataNotFit when the
    set's own description contradicts the layout.
    """
    if layout.kind == "decathlon":
        _check_description(source / DESCRIPTION, layout)
    found: list[Candidates] = []
    studies_of, unpaired = groups(source, labels, layout)
    for number, group in enumerate(studies_of, start=1):
        found.append(_candidates(source, labels, group, layout, task, pseudonyms))
        progress(number, len(studies_of))
    if require_deidentified:
        found = [without_identified(candidates) for candidates in found]
    studies, excluded = decide(found, task, unmarked)
    remarks = (finding("label-unpaired", count=unpaired),) if unpaired and not unmarked else ()
    return Collected(layout.kind, tuple(studies), tuple(excluded), remarks)


def named(source: Path, layout: Layout, pseudonyms: Pseudonyms) -> Iterator[tuple[Path, str, str, str]]:
    """Every file of such a folder, masks included, with the pseudonyms of its patient, study and itself."""
    for group in groups(source, None, layout)[0]:
        patient, study = _patient(group, layout, pseudonyms), _study(group, layout, pseudonyms)
        for path, volume in (place for places in group.images.values() for place in places):
            yield path, patient, study, _image(source, path, volume, pseudonyms)
        for path in group.masks:
            yield path, patient, study, file_pseudonym(source, path, pseudonyms)


def groups(source: Path, labels: Path | None, layout: Layout) -> tuple[list[Group], int]:
    """The studies of a folder by name, in order, and how many masks belong to none of them."""
    read = _read_decathlon if layout.kind == "decathlon" else _read_brats
    found = read(source, labels, layout)
    with_images = [found[name] for name in sorted(found) if found[name].images]
    return with_images, sum(len(group.masks) for group in found.values() if not group.images)


def _read_brats(source: Path, labels: Path | None, layout: Layout) -> dict[str, Group]:
    channels = {str(ending).lower(): channel for channel, ending in layout.images.items()}
    found: dict[str, Group] = {}
    for path in nifti.find(source):
        match = _ENDED.match(nifti.stem(path))
        ending = match["ending"].lower() if match else ""
        if match and ending in channels:
            _of(found, match["name"]).images[channels[ending]].append((path, None))
        elif match and ending == layout.label and labels is None:
            _of(found, match["name"]).masks.append(path)
    for path in nifti.find(labels) if labels else ():
        match = _ENDED.match(nifti.stem(path))
        marked = match is not None and match["ending"].lower() == layout.label
        _of(found, match["name"] if match and marked else nifti.stem(path)).masks.append(path)
    return found


def _read_decathlon(source: Path, labels: Path | None, layout: Layout) -> dict[str, Group]:
    images, masks = (source / folder for folder in layout.folders)
    found: dict[str, Group] = {}
    for path in nifti.find(labels or masks):
        _of(found, nifti.stem(path)).masks.append(path)
    marked = frozenset(found)
    channels = {int(index): channel for channel, index in layout.images.items()}
    for path in nifti.find(images):
        name = nifti.stem(path)
        match = _NUMBERED.match(name)
        if name not in marked and match and match["name"] in marked:
            channel = channels.get(int(match["number"]))
            if channel:
                found[match["name"]].images[channel].append((path, None))
            continue
        for index, channel in channels.items():
            _of(found, name).images[channel].append((path, index))
    return found


def _of(found: dict[str, Group], name: str) -> Group:
    return found.setdefault(name, Group(name))


def _candidates(
    source: Path, labels: Path | None, group: Group, layout: Layout, task: Task, pseudonyms: Pseudonyms
) -> Candidates:
    images: dict[str, list[ImageSource]] = defaultdict(list)
    refused: dict[str, list[Finding]] = defaultdict(list)
    masks = [
        NiftiMask(file_pseudonym(labels or source, path, pseudonyms), path, layout.label_values) for path in group.masks
    ]
    for channel in task.channels:
        for path, volume in group.images.get(channel.name, ()):
            image = read_image(path, _image(source, path, volume, pseudonyms), channel, volume)
            if isinstance(image, ImageSource):
                images[channel.name].append(image)
            else:
                refused[channel.name].append(image)
    return Candidates(
        id=_study(group, layout, pseudonyms),
        patient=_patient(group, layout, pseudonyms),
        images=images,
        masks={image.id: masks for image in images[task.channels[0].name]},
        refused=refused,
    )


def _patient(group: Group, layout: Layout, pseudonyms: Pseudonyms) -> str:
    return pseudonyms.patient(as_text(group.patient), layout.kind)


def _study(group: Group, layout: Layout, pseudonyms: Pseudonyms) -> str:
    return pseudonyms.study(f"{layout.kind}/{as_text(group.name)}")


def _image(source: Path, path: Path, volume: int | None, pseudonyms: Pseudonyms) -> str:
    return file_pseudonym(source, path, pseudonyms, "" if volume is None else str(volume))


def _check_description(path: Path, layout: Layout) -> None:
    """Holds what `dataset.json` says, where there is one, against the layout: values of the masks, order of the images.

    It is that of the Decathlon or of nnU-Net (either version). Raises DataNotFit.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        raise DataNotFit(f"{DESCRIPTION} is not JSON.", "Give the data set as it was published.") from None
    if not isinstance(content, dict):
        return
    values = _values(content.get("labels"))
    unknown = sorted(values - {0, *layout.label_values})
    if unknown:
        raise DataNotFit(
            f"{DESCRIPTION} has the label value {unknown[0]}, which the layout {layout.name} does not know.",
            "Say with --layout which data set it is; fedsite tasks show lists the layouts.",
        )
    names = content.get("channel_names") or content.get("modality")
    names = names if isinstance(names, dict) else {}
    for channel, index in layout.images.items():
        called = [str(place) for place, name in names.items() if str(name).lower() in _CALLED.get(channel, ())]
        if called and str(index) not in called:
            raise DataNotFit(
                f"{DESCRIPTION} has the {channel} image in another place than the layout {layout.name}.",
                "Say with --layout which data set it is; fedsite tasks show lists the layouts.",
            )


def _values(labels: object) -> set[int]:
    """The label values that `dataset.json` names: as keys (Decathlon), or as values or lists of them (nnU-Net)."""
    if not isinstance(labels, dict):
        return set()
    if all(str(key).isdigit() for key in labels):
        return {int(key) for key in labels}
    listed = [value if isinstance(value, list) else [value] for value in labels.values()]
    return {value for values in listed for value in values if isinstance(value, int)}
