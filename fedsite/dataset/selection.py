"""Which volumes of a study are the images that a task asks for, and what the task demands of them.

A diffusion-weighted image is told by its b-value, never a map that was computed from one; the trace is taken, the mean
over directions. Where none was exported, it is computed from at least three directions. Of several b-values in the
task's range the one nearest to the channel's preferred one counts. An ADC map is told by its type, never by a b-value;
T1, T2 and FLAIR by their times, never by what somebody called the series.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import checks
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import ImageSource
from fedsite.dicom.checks import Finding
from fedsite.dicom.header.diffusion import TRACE_WORDS
from fedsite.dicom.model import Frame, Volume
from fedsite.dicom.volume.parts import DIFFUSION_MAPS
from fedsite.tasks.description import Channel, Task

# Findings of the DICOM gate that speak of a diffusion series without its b-values.
B_VALUE_LOST = frozenset({"b-value-unknown", "duplicate-positions", "repeated-acquisitions"})

# b-values that differ by less are one: scanners state what they reached, not what was asked for.
B_TOLERANCE = 25.0

# Images for a b-value that was never measured, but extrapolated from others.
_CALCULATED = frozenset({"CALC_BVALUE", "CALCULATED", "SYNTHETIC"})

MIN_DIRECTIONS = 3
# Of the mean of the directions' outer products, whose eigenvalues sum to 1: each is 1/3 where no direction is
# preferred. Below this the directions nearly lie in a plane, or crowd around an axis.
_MIN_EIGENVALUE = 0.1

# Less than this from the lowest to the highest voxel is no whole head.
HEAD_MM = 100.0

# Slices thinner than this make a volume that is as good in any plane.
THIN_MM = 1.5
# Cosine of the angle between the slices' normal and the body's axis: a tilted gantry reaches 30 degrees.
AXIAL = 0.7

# Body Part Examined (0018,0015), PS3.16 annex L: words that name a head, and words that name something else. It is a
# free choice of whoever sets up a scanner, so that what is neither passes.
_HEAD = ("HEAD", "BRAIN", "SKULL", "CRANI", "NEURO", "CEREB", "FACE", "ORBIT", "SELLA", "SINUS", "NECK", "WHOLEBODY")
_ELSEWHERE = (
    *("ABDOMEN", "ANKLE", "ARM", "BLADDER", "BREAST", "CARDIAC", "CHEST", "ELBOW", "EXTREMITY", "FEMUR", "FOOT"),
    *("HAND", "HEART", "HIP", "KIDNEY", "KNEE", "LEG", "LIVER", "LUNG", "PELVIS", "PROSTATE", "SHOULDER", "SPINE"),
    *("THORAX", "UTERUS", "WRIST"),
)


@dataclass(frozen=True)
class Choice:
    """One image that would do for a channel, and the volumes that it is made of: several for a computed trace."""

    channel: Channel
    volumes: tuple[Volume, ...]

    @property
    def id(self) -> str:
        """The pseudonym; that of the first of several volumes."""
        return self.volumes[0].id

    @property
    def keys(self) -> frozenset[str]:
        """The identifiers that a mask may be named after (never written anywhere)."""
        return frozenset().union(*(volume.keys for volume in self.volumes))

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Every slice of every volume."""
        return tuple(frame for volume in self.volumes for frame in volume.frames)

    def image(self) -> ImageSource:
        """The image as a study takes it."""
        first = self.volumes[0]
        return ImageSource(
            id=self.id,
            channel=self.channel.name,
            shape=first.shape,
            affine=first.affine,
            b_value=first.b_value,
            scanner=first.scanner,
            findings=tuple(self._remarks()),
            files=tuple(sorted({Path(frame.instance.path) for frame in self.frames})),
            origin=first if len(self.volumes) == 1 else self.volumes,
            frame_of_reference=first.frame_of_reference,
            quantity=self.channel.quantity,
        )

    def _remarks(self) -> Iterator[Finding]:
        """The warnings of the volumes, each rule once, and what is to be said of the choice."""
        remarks = {each.id: each for volume in self.volumes for each in volume.findings if each.severity == "warning"}
        yield from remarks.values()
        first = self.volumes[0]
        if len(self.volumes) > 1:
            yield finding("trace-computed", self.id, count=len(self.volumes))
        elif self.channel.b_values and not _is_trace(first):
            yield finding("directionality-unknown", self.id)
        extent = _extent_mm(first)
        if extent < HEAD_MM:
            yield finding("incomplete-head", self.id, extent=extent)


def choose(volumes: Sequence[Volume], task: Task) -> tuple[dict[str, list[Choice]], dict[str, list[Finding]]]:
    """For each channel the images of one study that would do, and why others that were meant for it would not."""
    channels: dict[str, list[Choice]] = {}
    refused: dict[str, list[Finding]] = {}
    for channel in task.channels:
        alike = [_judged(volume, task, channel) for volume in volumes if _is_of(volume, channel)]
        accepted = [volume for volume in alike if volume.verdict == "accepted"]
        chosen = _traces(accepted, channel) if channel.b_values else [(volume,) for volume in accepted]
        channels[channel.name] = [Choice(channel, members) for members in chosen]
        reasons = _reasons(volume for volume in alike if volume.verdict == "refused")
        if accepted and not chosen:
            reasons.append(finding("trace-missing", accepted[0].id))
        if channel.b_values and not alike:
            reasons += _lost_b_values(volume for volume in volumes if volume.modality == channel.modality)
        if channel.weighting and not alike:
            reasons += _unknown_weightings(volume for volume in volumes if volume.modality == channel.modality)
        refused[channel.name] = reasons
    return channels, refused


def _is_of(volume: Volume, channel: Channel) -> bool:
    """Whether a volume is of a channel's kind, accepted or not."""
    if volume.modality != channel.modality or channel.contrast_agent not in (None, volume.has_contrast_agent):
        return False
    if channel.quantity == "adc":
        return "ADC" in volume.image_type
    is_map = not DIFFUSION_MAPS.isdisjoint(volume.image_type)
    if channel.weighting:
        # Some scanners state a b-value of 0 for an image that is no diffusion image.
        return volume.weighting == channel.weighting and not volume.b_value and not is_map
    if channel.b_values is None:
        return True
    low, high = channel.b_values
    return volume.b_value is not None and low <= volume.b_value <= high and not is_map


def _judged(volume: Volume, task: Task, channel: Channel) -> Volume:
    """The volume with the task's own demands added, and what the task allows taken as a warning."""
    found = []
    for each in volume.findings:
        allowed = each.id == "reformat" and task.allows_reformats
        found.append(replace(each, severity="warning") if allowed else each)
        if each.id == "lossy-compression" and not task.allows_lossy:
            found.append(finding("lossy-forbidden", volume.id))
    if task.body_part == "HEAD" and (part := _elsewhere(volume)):
        found.append(finding("wrong-body-part", volume.id, part=part.lower()))
    found += _slice_problems(volume, channel)
    refused = any(each.severity == "error" for each in found)
    return replace(volume, findings=tuple(found), verdict="refused" if refused else "accepted")


def _slice_problems(volume: Volume, channel: Channel) -> Iterator[Finding]:
    """How thick the slices are, and whether thick ones lie across the body."""
    across = volume.affine[:3, 2]
    thickness = float(np.linalg.norm(across))
    if channel.max_slice_mm is not None and thickness > channel.max_slice_mm:
        yield finding("slices-too-thick", volume.id, thickness=thickness, limit=channel.max_slice_mm)
    if channel.axial and thickness > THIN_MM and abs(across[2]) < AXIAL * thickness:
        yield finding("not-axial", volume.id, thickness=thickness)


def _elsewhere(volume: Volume) -> str:
    """The part of the body that the images name, where it is surely no head."""
    named = " ".join({frame.instance.body_part for frame in volume.frames}).upper().replace("_", "").replace(" ", "")
    if any(word in named for word in _HEAD):
        return ""
    return next((word for word in _ELSEWHERE if word in named), "")


def _traces(volumes: Sequence[Volume], channel: Channel) -> list[tuple[Volume, ...]]:
    """The traces at the preferred b-value: those that are called so, else what nothing is said of, else computed ones.

    An image without a direction beside others that have one is the combined image. A trace for a calculated b-value
    comes last: it was never measured.
    """
    measured = [volume for volume in volumes if _CALCULATED.isdisjoint(volume.image_type)]
    kinds: tuple[list[tuple[Volume, ...]], ...] = (
        [(volume,) for volume in measured if _is_trace(volume)],
        [(volume,) for volume in measured if volume.directionality is None],
        list(_direction_sets(measured)),
        [(volume,) for volume in volumes if _is_trace(volume)],
    )
    return next((_nearest(kind, channel.preferred_b_value) for kind in kinds if kind), [])


def _nearest(sets: Sequence[tuple[Volume, ...]], preferred: float) -> list[tuple[Volume, ...]]:
    distances = [abs((members[0].b_value or 0) - preferred) for members in sets]
    return [
        members for members, distance in zip(sets, distances, strict=True) if distance <= min(distances) + B_TOLERANCE
    ]


def _is_trace(volume: Volume) -> bool:
    return volume.directionality == "ISOTROPIC" or not TRACE_WORDS.isdisjoint(volume.image_type)


def _direction_sets(volumes: Sequence[Volume]) -> Iterator[tuple[Volume, ...]]:
    """Volumes of single directions whose geometric mean is a trace: of one series, else of several."""
    by_series: dict[str, list[Volume]] = defaultdict(list)
    for volume in volumes:
        if volume.directionality == "DIRECTIONAL" and any(frame.direction for frame in volume.frames[:1]):
            by_series[volume.series].append(volume)
    found = [members for own in by_series.values() for members in _by_b_value(own) if _is_isotropic(members)]
    if not found:
        directional = [volume for own in by_series.values() for volume in own]
        found = [members for members in _by_b_value(directional) if _is_isotropic(members)]
    yield from found


def _by_b_value(volumes: Iterable[Volume]) -> Iterator[tuple[Volume, ...]]:
    members: list[Volume] = []
    for volume in sorted(volumes, key=lambda volume: (volume.b_value or 0, volume.id)):
        if members and (volume.b_value or 0) - (members[0].b_value or 0) > B_TOLERANCE:
            yield tuple(members)
            members = []
        members.append(volume)
    if members:
        yield tuple(members)


def _is_isotropic(volumes: Sequence[Volume]) -> bool:
    """Whether these are enough directions, spread evenly enough, on one grid of one frame of reference."""
    if any(not _is_on_grid_of(volume, volumes[0]) for volume in volumes):
        return False
    return are_spread(np.array([volume.frames[0].direction for volume in volumes], np.float64))


def are_spread(directions: NDArray[np.float64]) -> bool:
    """Whether these directions [n, 3] are enough, and spread evenly enough, for their mean to be a trace."""
    if len(directions) < MIN_DIRECTIONS:
        return False
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return bool(np.linalg.eigvalsh(units.T @ units / len(units))[0] >= _MIN_EIGENVALUE)


def _is_on_grid_of(volume: Volume, first: Volume) -> bool:
    if volume.shape != first.shape or volume.frame_of_reference != first.frame_of_reference:
        return False
    return checks.corner_distance(volume.affine, first.affine, first.shape) <= checks.SNAP_MM


def _extent_mm(volume: Volume) -> float:
    """How far the volume reaches along the body's axis."""
    return float(np.abs(volume.affine[2, :3]) @ np.array(volume.shape))


def _reasons(volumes: Iterable[Volume]) -> list[Finding]:
    return [problem for volume in volumes for problem in volume.findings if problem.severity == "error"]


def _unknown_weightings(volumes: Iterable[Volume]) -> list[Finding]:
    """What is to be said of images that may be the right ones but do not say how they were acquired."""
    return [
        finding("weighting-unknown", volume.id)
        for volume in volumes
        if not volume.weighting and volume.b_value is None and DIFFUSION_MAPS.isdisjoint(volume.image_type)
    ]


def _lost_b_values(volumes: Iterable[Volume]) -> list[Finding]:
    """What the scan says of images that may be the right ones but lost their b-value."""
    return [problem for volume in volumes for problem in volume.findings if problem.id in B_VALUE_LOST]
