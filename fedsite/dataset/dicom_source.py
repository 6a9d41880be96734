"""Studies from a DICOM export, with masks paired by reference or name: label objects beside the images, or any in a
folder of their own.

A study is a StudyInstanceUID. For each channel of the task it must hold one image that would do (see `selection`).
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.names import file_pseudonym
from fedsite.dataset.pairing import Pairing, pair
from fedsite.dataset.rules import finding
from fedsite.dataset.selection import Choice, choose
from fedsite.dataset.studies import Candidates, Collected, Progress, Pseudonyms, Unmarked, decide
from fedsite.dicom.checks import Finding
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.index import Index
from fedsite.dicom.labels.objects import LabelObject, read_label_object
from fedsite.dicom.model import Inventory, Volume
from fedsite.dicom.scan import scan
from fedsite.dicom.source.opening import open_file
from fedsite.errors import DataNotFit
from fedsite.tasks.description import Task

# What the scan calls the objects that may be labels.
_LABEL_RULES = frozenset({"segmentation", "radiotherapy-object"})
# What it finds in a folder of masks that concerns them.
_ABOUT_LABELS = frozenset({"damaged-header", "unreadable-file", "unreadable-folder"})


def collect(
    source: Path,
    labels: Path | None,
    task: Task,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    *,
    index: Index | None = None,
    resample: frozenset[str] = frozenset(),
    require_deidentified: bool = False,
    unmarked: Unmarked | None = None,
) -> Collected:
    """The studies of a DICOM folder; masks are looked for in it and in `labels`, folders below included."""
    inventory = scan(
        source, pseudonyms, progress, index=index, resample=resample, require_deidentified=require_deidentified
    )
    images = [volume for volume in inventory.volumes if not _is_label(volume)]
    by_study: dict[str, list[Volume]] = defaultdict(list)
    for volume in images:
        by_study[volume.study].append(volume)
    chosen = {study: choose(volumes, task) for study, volumes in sorted(by_study.items())}
    reference = task.channels[0].name
    files, objects, remarks = ([], [], []) if unmarked else _masks(inventory, labels, pseudonyms, index)
    pairing = pair(
        files,
        objects,
        [choice for channels, _ in chosen.values() for choice in channels[reference]],
        images,
        {value: name for value, name in task.labels.items() if value},
    )
    studies, excluded = decide(
        [
            _candidates(study, by_study[study][0].patient, channels, refused, pairing)
            for study, (channels, refused) in chosen.items()
        ],
        task,
        unmarked,
    )
    if pairing.unpaired:
        remarks.append(finding("label-unpaired", count=pairing.unpaired))
    return Collected("dicom", tuple(studies), tuple(excluded), (*inventory.findings, *remarks))


def mask_files(folder: Path, pseudonyms: Pseudonyms) -> Iterator[NiftiMask]:
    """The NIfTI files of a folder of masks."""
    return (NiftiMask(file_pseudonym(folder, path, pseudonyms), path) for path in nifti.find(folder))


def _candidates(
    study: str,
    patient: str,
    channels: dict[str, list[Choice]],
    refused: dict[str, list[Finding]],
    pairing: Pairing,
) -> Candidates:
    return Candidates(
        id=study,
        patient=patient,
        images={name: [choice.image() for choice in choices] for name, choices in channels.items()},
        masks=pairing.masks,
        contested=pairing.contested,
        refused=refused,
        strays=tuple(pairing.strays.get(study, ())),
    )


def _is_label(volume: Volume) -> bool:
    return any(problem.id in _LABEL_RULES for problem in volume.findings)


def _masks(
    inventory: Inventory, folder: Path | None, pseudonyms: Pseudonyms, index: Index | None
) -> tuple[list[NiftiMask], list[tuple[str, LabelObject]], list[Finding]]:
    """The NIfTI masks of a folder, the label objects of source and folder by their pseudonyms, and what was wrong."""
    files: list[NiftiMask] = []
    remarks: list[Finding] = []
    inventories = [inventory]
    if folder is not None:
        files += mask_files(folder, pseudonyms)
        inventories.append(scan(folder, pseudonyms, index=index))
        remarks += [remark for remark in inventories[1].findings if remark.id in _ABOUT_LABELS]
    faults: Counter[str] = Counter()
    volumes = [volume for each in inventories for volume in each.volumes if _is_label(volume)]
    objects = _once(_label_objects(volumes, faults))
    return files, objects, [*remarks, *(finding(rule, count=faults[rule]) for rule in sorted(faults))]


def _label_objects(volumes: Iterable[Volume], faults: Counter[str]) -> Iterator[tuple[str, LabelObject]]:
    """The label objects among some refused volumes; those that cannot be read are counted in `faults`, by rule."""
    with tolerant_reading():
        for volume in volumes:
            for place in sorted({(frame.instance.path, frame.instance.member) for frame in volume.frames}):
                try:
                    label = read_label_object(*place)
                except (DataNotFit, OSError):
                    faults["label-object-damaged"] += 1
                    continue
                if label is not None:
                    yield volume.id, label
                elif volume.modality == "SEG":
                    faults["label-object-unknown"] += 1


def _once(objects: Iterable[tuple[str, LabelObject]]) -> list[tuple[str, LabelObject]]:
    """Label objects without those that are copies of others, byte by byte: the folder may lie within the source."""
    same: dict[str, list[tuple[str, LabelObject]]] = defaultdict(list)
    for name, label in objects:
        same[label.sop_instance].append((name, label))
    kept: dict[tuple[str, bytes], tuple[str, LabelObject]] = {}
    for uid, copies in same.items():
        for name, label in copies:
            kept.setdefault((uid, _digest(label) if len(copies) > 1 else b""), (name, label))
    return list(kept.values())


def _digest(label: LabelObject) -> bytes:
    with open_file(label.path, label.member) as file:
        return hashlib.sha256(file.read()).digest()
