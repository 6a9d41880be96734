"""Studies from a DICOM export, with NIfTI masks paired by name.

A study is a StudyInstanceUID. For each channel of the task it must hold one accepted volume of the channel's modality
and b-value; of diffusion images the trace, the mean over directions.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedsite.dataset import nifti
from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.pairing import Pairing, pair
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import Candidates, Collected, ImageSource, Progress, Pseudonyms, decide
from fedsite.dicom.checks import Finding
from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.tasks.description import Channel, Task

# Parametric maps that scanners compute from diffusion images; some carry a b-value all the same.
MAPS = frozenset({"ADC", "EADC", "FA", "TENSOR", "DIFFUSION_TENSOR", "COLFA"})
TRACE_WORDS = frozenset({"TRACE", "TRACEW", "ISOTROPIC"})

# Findings of the DICOM gate that speak of a diffusion series without its b-values.
B_VALUE_LOST = frozenset({"b-value-unknown", "duplicate-positions"})


def collect(
    source: Path,
    labels: Path | None,
    task: Task,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
) -> Collected:
    """The studies of a DICOM folder; masks are looked for in `labels`, its folders included."""
    inventory = scan(source, pseudonyms, progress)
    by_study: dict[str, list[Volume]] = defaultdict(list)
    for volume in inventory.volumes:
        by_study[volume.study].append(volume)
    chosen = {study: _choose(volumes, task) for study, volumes in sorted(by_study.items())}
    reference = task.channels[0].name
    references = [volume for channels, _ in chosen.values() for volume in channels[reference]]
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


def _choose(volumes: Sequence[Volume], task: Task) -> tuple[dict[str, list[Volume]], list[Finding]]:
    """For each channel the volumes that would do, and why others that were meant for it would not."""
    channels: dict[str, list[Volume]] = {}
    refused: list[Finding] = []
    for channel in task.channels:
        alike = [volume for volume in volumes if _is_of(volume, channel)]
        accepted = [volume for volume in alike if volume.verdict == "accepted"]
        channels[channel.name] = _traces(accepted) if channel.b_values else accepted
        refused += _reasons(volume for volume in alike if volume.verdict == "refused")
        if accepted and not channels[channel.name]:
            refused.append(finding("trace-missing", accepted[0].id))
        if channel.b_values and not alike:
            refused += _lost_b_values(volume for volume in volumes if volume.modality == channel.modality)
    return channels, refused


def _is_of(volume: Volume, channel: Channel) -> bool:
    """Whether a volume is of a channel's kind, accepted or not."""
    if volume.modality != channel.modality:
        return False
    if channel.b_values is None:
        return True
    low, high = channel.b_values
    return volume.b_value is not None and low <= volume.b_value <= high and MAPS.isdisjoint(volume.image_type)


def _traces(volumes: list[Volume]) -> list[Volume]:
    """The means over directions; where none is called so, those of which nothing is said."""
    traces = [volume for volume in volumes if _is_trace(volume)]
    return traces or [volume for volume in volumes if volume.directionality is None]


def _is_trace(volume: Volume) -> bool:
    return volume.directionality == "ISOTROPIC" or not TRACE_WORDS.isdisjoint(volume.image_type)


def _reasons(volumes: Iterable[Volume]) -> list[Finding]:
    return [problem for volume in volumes for problem in volume.findings if problem.severity == "error"]


def _lost_b_values(volumes: Iterable[Volume]) -> list[Finding]:
    """What the scan says of images that may be the right ones but lost their b-value."""
    return [problem for volume in volumes for problem in volume.findings if problem.id in B_VALUE_LOST]


def _candidates(
    study: str, patient: str, channels: dict[str, list[Volume]], refused: list[Finding], pairing: Pairing
) -> Candidates:
    return Candidates(
        id=study,
        patient=patient,
        images={name: [_image(volume, name) for volume in volumes] for name, volumes in channels.items()},
        masks={image: [NiftiMask(path) for path in paths] for image, paths in pairing.masks.items()},
        contested=pairing.contested,
        refused=tuple(refused),
    )


def _image(volume: Volume, channel: str) -> ImageSource:
    remarks = [remark for remark in volume.findings if remark.severity == "warning"]
    if volume.b_value and not _is_trace(volume):
        remarks.append(finding("directionality-unknown", volume.id))
    return ImageSource(
        id=volume.id,
        channel=channel,
        shape=volume.shape,
        affine=volume.affine,
        b_value=volume.b_value,
        scanner=volume.scanner,
        findings=tuple(remarks),
        files=tuple(sorted({Path(frame.instance.path) for frame in volume.frames})),
        origin=volume,
    )
