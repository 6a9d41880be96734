"""Which volumes of a study are the images that a task asks for.

A volume is of a channel's kind by its modality and, where diffusion decides, its b-value; of diffusion images the
trace is taken, the mean over directions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsite.dataset.rules import finding
from fedsite.dataset.studies import ImageSource
from fedsite.dicom.checks import Finding
from fedsite.dicom.model import Frame, Volume
from fedsite.tasks.description import Channel, Task

# Parametric maps that scanners compute from diffusion images; some carry a b-value all the same.
MAPS = frozenset({"ADC", "EADC", "FA", "TENSOR", "DIFFUSION_TENSOR", "COLFA"})
TRACE_WORDS = frozenset({"TRACE", "TRACEW", "ISOTROPIC"})

# Findings of the DICOM gate that speak of a diffusion series without its b-values.
B_VALUE_LOST = frozenset({"b-value-unknown", "duplicate-positions"})


@dataclass(frozen=True)
class Choice:
    """One image that would do for a channel, and the volumes that it is made of."""

    volumes: tuple[Volume, ...]

    @property
    def id(self) -> str:
        """The pseudonym."""
        return self.volumes[0].id

    @property
    def keys(self) -> frozenset[str]:
        """The identifiers that a mask may be named after (never written anywhere)."""
        return frozenset().union(*(volume.keys for volume in self.volumes))

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Every slice of every volume."""
        return tuple(frame for volume in self.volumes for frame in volume.frames)

    def image(self, channel: str) -> ImageSource:
        """The image as a study takes it."""
        volume = self.volumes[0]
        remarks = [remark for remark in volume.findings if remark.severity == "warning"]
        if volume.b_value and not _is_trace(volume):
            remarks.append(finding("directionality-unknown", volume.id))
        return ImageSource(
            id=self.id,
            channel=channel,
            shape=volume.shape,
            affine=volume.affine,
            b_value=volume.b_value,
            scanner=volume.scanner,
            findings=tuple(remarks),
            files=tuple(sorted({Path(frame.instance.path) for frame in self.frames})),
            origin=volume,
        )


def choose(volumes: Sequence[Volume], task: Task) -> tuple[dict[str, list[Choice]], list[Finding]]:
    """For each channel the images of one study that would do, and why others that were meant for it would not."""
    channels: dict[str, list[Choice]] = {}
    refused: list[Finding] = []
    for channel in task.channels:
        alike = [volume for volume in volumes if _is_of(volume, channel)]
        accepted = [volume for volume in alike if volume.verdict == "accepted"]
        taken = _traces(accepted) if channel.b_values else accepted
        channels[channel.name] = [Choice((volume,)) for volume in taken]
        refused += _reasons(volume for volume in alike if volume.verdict == "refused")
        if accepted and not taken:
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
