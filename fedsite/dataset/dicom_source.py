"""Studies from a DICOM export, with NIfTI masks paired by name.

A study is a StudyInstanceUID. For each channel of the task it must hold one image that would do (see `selection`).
"""

from collections import defaultdict
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.pairing import Pairing, pair
from fedsite.dataset.rules import finding
from fedsite.dataset.selection import Choice, choose
from fedsite.dataset.studies import Candidates, Collected, Progress, Pseudonyms, decide
from fedsite.dicom.checks import Finding
from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.tasks.description import Task


def collect(
    source: Path,
    labels: Path | None,
    task: Task,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    *,
    resample: frozenset[str] = frozenset(),
) -> Collected:
    """The studies of a DICOM folder; masks are looked for in `labels`, its folders included."""
    inventory = scan(source, pseudonyms, progress, resample=resample)
    by_study: dict[str, list[Volume]] = defaultdict(list)
    for volume in inventory.volumes:
        by_study[volume.study].append(volume)
    chosen = {study: choose(volumes, task) for study, volumes in sorted(by_study.items())}
    reference = task.channels[0].name
    references = [choice for channels, _ in chosen.values() for choice in channels[reference]]
    pairing = pair(nifti.find(labels) if labels else (), references)
    studies, excluded = decide(
        [
            _candidates(study, by_study[study][0].patient, channels, refused, pairing)
            for study, (channels, refused) in chosen.items()
        ],
        task,
    )
    unpaired = (finding("label-unpaired", count=pairing.unpaired),) if pairing.unpaired else ()
    return Collected("dicom", tuple(studies), tuple(excluded), (*inventory.findings, *unpaired))


def _candidates(
    study: str, patient: str, channels: dict[str, list[Choice]], refused: list[Finding], pairing: Pairing
) -> Candidates:
    return Candidates(
        id=study,
        patient=patient,
        images={name: [choice.image() for choice in choices] for name, choices in channels.items()},
        masks={image: [NiftiMask(path) for path in paths] for image, paths in pairing.masks.items()},
        contested=pairing.contested,
        refused=tuple(refused),
    )
