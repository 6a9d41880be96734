"""From the frames of one series to its volumes: divided into parts, and each part put through every rule.

All rules run before anything is refused, so that the operator sees every reason at once; only where one fault makes
the next question meaningless (no positions: no steps) the later ones are left out.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedsite.dicom import geometry, regrid
from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.header import scaling
from fedsite.dicom.model import Frame, Pseudonyms, Volume
from fedsite.dicom.regrid import Regrid
from fedsite.dicom.volume import duplicates, images, parts
from fedsite.dicom.volume.parts import Part, kind_of

THICKNESS_TOLERANCE = 0.1
THICK_MM = 7.0
# Slices of a kind that a task may allow after all, so that the other rules count.
REFORMAT = "reformat"

_MENDED_BY = {"tilt": "tilt", "uneven-steps": "uneven"}
_NO_AFFINE = frozenset({"uneven-steps", "missing-slices", "shifted-slices"})


@dataclass(frozen=True)
class _Placed:
    """Frames in slice order, where they lie (NaN if unknown), what is wrong with it, how it is to be mended."""

    frames: Sequence[Frame]
    affine: NDArray[np.float64]
    findings: tuple[Finding, ...]
    regrid: Regrid | None = None


@dataclass(frozen=True)
class _Judged:
    """A part after the rules: its frames in order and without copies, where they lie, all findings."""

    part: Part
    placed: _Placed
    findings: tuple[Finding, ...]


def volumes(frames: Iterable[Frame], pseudonyms: Pseudonyms, resample: frozenset[str] = frozenset()) -> list[Volume]:
    """The volumes of one series (frames of one SeriesInstanceUID), accepted or refused, in a fixed order.

    `resample` holds what is mended by resampling and not refused: some of `regrid.CHOICES`.
    Must run inside `values.tolerant_reading`: slices that lie twice at one place are compared by their pixels.
    """
    ordered = sorted(frames, key=lambda frame: (frame.instance.number or 0, frame.instance.sop_instance, frame.index))
    divided = parts.divide(ordered, _repeats)
    judged = [_judge(part, resample) for part in divided]
    of_series = [*_identity(ordered), *(_instance_gaps(ordered) if len(divided) == 1 else [])]
    judged = [replace(one, findings=(*of_series, *one.findings, *_sisters(one, judged))) for one in judged]
    return [_volume(one, pseudonyms) for one in judged]


def _judge(part: Part, resample: frozenset[str]) -> _Judged:
    refused = [finding(rule) for rule in images.refused_as(part.frames)]
    if any(each.id != REFORMAT for each in refused):  # What lies where in another kind of object is no question.
        return _Judged(part, _unplaced(part.frames), tuple(refused))
    kept, dropped = duplicates.drop_identical(part.frames)
    kept, passed_over = scaling.settle(kept)
    found = [*refused, *passed_over, *images.image_findings(kept)]
    if dropped:
        found.append(finding("identical-duplicates", count=dropped))
    placed = _place(kept, resample)
    return _Judged(replace(part, frames=tuple(placed.frames)), placed, (*found, *placed.findings))


def _place(frames: Sequence[Frame], resample: frozenset[str]) -> _Placed:
    """Puts the frames into slice order and measures the stack that they make."""
    lacking = sum(1 for frame in frames if not _is_placed(frame))
    if lacking:
        return _unplaced(frames, finding("missing-geometry", count=lacking))
    planes = _planes(frames)
    found = geometry.plane_findings(planes)
    if found:
        return _unplaced(frames, *found)
    order = planes.sorting()
    ordered, planes = [frames[index] for index in order], planes.take(order)
    positions = geometry.count_positions(planes)
    if positions < len(frames):
        return _unplaced(ordered, _repeated(frames, positions))
    return _stack(ordered, planes, resample)


def _unplaced(frames: Sequence[Frame], *found: Finding) -> _Placed:
    return _Placed(frames, np.full((4, 4), np.nan), found)


def _stack(frames: Sequence[Frame], planes: geometry.Planes, resample: frozenset[str]) -> _Placed:
    """Where a sorted stack of slices at different positions lies."""
    found = geometry.stack_findings(planes)
    if _NO_AFFINE.intersection(each.id for each in found):
        even = geometry.unrounded(planes)
        if even is not None:
            planes = even
            found = [finding("positions-rounded", decimals=1), *geometry.stack_findings(planes)]
    mended = _mended(planes, {each.id for each in found}, resample)
    if mended:
        planned, remarks = mended
        found = [*remarks, *(each for each in found if each.id not in _MENDED_BY)]
        return _Placed(frames, planned.affine, (*found, *_thickness(frames, planned.affine)), planned)
    if _NO_AFFINE.intersection(each.id for each in found):
        return _unplaced(frames, *found)
    affine = geometry.affine(planes)
    return _Placed(frames, affine, (*found, *_thickness(frames, affine)))


def _mended(planes: geometry.Planes, broken: set[str], resample: frozenset[str]) -> tuple[Regrid, list[Finding]] | None:
    """The regular grid for a stack that breaks only rules which resampling mends and the operator named."""
    faults = broken & _MENDED_BY.keys()
    if not faults or broken & (_NO_AFFINE - faults) or not {_MENDED_BY[fault] for fault in faults} <= resample:
        return None
    steps, degrees = geometry.steps(planes), geometry.tilt_degrees(planes)
    step = float(np.median(steps))
    if steps.max() > regrid.MAX_STEP * step or degrees > regrid.MAX_TILT_DEGREES:
        return None
    planned = regrid.plan(planes, "tilt" in faults, "uneven-steps" in faults)
    if math.prod(planned.shape) > regrid.MOST_GROWTH * math.prod(planned.acquired_shape):
        return None
    remarks = []
    if "tilt" in faults:
        remarks.append(finding("resampled-tilt", degrees=degrees))
    if "uneven-steps" in faults:
        remarks.append(finding("resampled-uneven", least=steps.min(), most=steps.max(), step=step))
    return planned, remarks


def _is_placed(frame: Frame) -> bool:
    return frame.position is not None and frame.orientation is not None and frame.spacing is not None


def _planes(frames: Sequence[Frame]) -> geometry.Planes:
    return geometry.Planes(
        positions=np.array([frame.position for frame in frames], np.float64),
        orientations=np.array([frame.orientation for frame in frames], np.float64),
        spacings=np.array([frame.spacing for frame in frames], np.float64),
        sizes=np.array([(frame.instance.pixels.rows, frame.instance.pixels.columns) for frame in frames], np.int64),
    )


def _repeats(frames: Sequence[Frame]) -> bool:
    """Whether some of these frames lie at the same position."""
    if not all(_is_placed(frame) for frame in frames):
        return False
    planes = _planes(frames)
    return not geometry.plane_findings(planes) and geometry.count_positions(planes) < len(frames)


def _repeated(frames: Sequence[Frame], positions: int) -> Finding:
    """Why positions repeat: several points in time, several acquisitions, or nobody knows."""
    count = len(frames)
    times = {frame.temporal_position for frame in frames}
    if len(times) > 1:
        return finding("time-series", images=count, positions=positions, times=len(times))
    if len({frame.acquisition for frame in frames}) > 1:
        return finding("repeated-acquisitions", images=count, positions=positions)
    return finding("duplicate-positions", images=count, positions=positions)


def _thickness(frames: Sequence[Frame], affine: NDArray[np.float64]) -> Iterator[Finding]:
    step = float(np.linalg.norm(affine[:3, 2]))
    if step > THICK_MM:
        yield finding("thick-slices", step=round(step, 3))
    thickness = frames[0].thickness
    # The slack is for what is exactly at the limit but for the rounding of decimals.
    if thickness and abs(thickness - step) > THICKNESS_TOLERANCE * step + geometry.STEP_SLACK_MM:
        yield finding("thickness-unlike-step", thickness=round(thickness, 3), step=round(step, 3))


def _identity(frames: Sequence[Frame]) -> Iterator[Finding]:
    patients = {(frame.instance.patient_id, frame.instance.issuer) for frame in frames}
    if len(patients) > 1:
        yield finding("several-patients", count=len(patients))
    if any(not patient_id for patient_id, _ in patients):
        yield finding("patient-unit-doubtful", reason="the images name no patient")
    if not frames[0].instance.series:
        yield finding("series-uid-missing")


def _instance_gaps(frames: Sequence[Frame]) -> list[Finding]:
    numbers = {frame.instance.number for frame in frames if frame.instance.number is not None}
    expected = max(numbers) - min(numbers) + 1 if numbers else 0
    if len(numbers) < expected and len(numbers) == len({frame.instance.sop_instance for frame in frames}):
        return [finding("instance-gaps", missing=expected - len(numbers), expected=expected)]
    return []


def _sisters(one: _Judged, judged: Sequence[_Judged]) -> list[Finding]:
    """A part that shares slice positions with a sister must have all of hers: else slices of it are missing."""
    if len(judged) == 1 or np.isnan(one.placed.affine).any():
        return []
    mine = {_place_key(frame) for frame in one.part.frames}
    sizes = [
        len(other.part.frames)
        for other in judged
        if other is not one
        and not np.isnan(other.placed.affine).any()
        and mine.intersection(_place_key(frame) for frame in other.part.frames)
    ]
    most = max(sizes, default=0)
    return [finding("fewer-slices-than-sisters", count=len(mine), sisters=most)] if most > len(mine) else []


def _place_key(frame: Frame) -> tuple[float, ...]:
    assert frame.position is not None
    return tuple(round(value, 2) for value in frame.position)


def _volume(judged: _Judged, pseudonyms: Pseudonyms) -> Volume:
    frames, label = judged.part.frames, judged.part.label
    first = frames[0]
    instance = first.instance
    name = pseudonyms.series(instance.series, label)
    refused = any(each.severity == "error" for each in judged.findings)
    is_map = kind_of(first) in parts.DIFFUSION_MAPS
    planned = judged.placed.regrid
    return Volume(
        id=name,
        series=pseudonyms.series(instance.series),
        study=pseudonyms.study(instance.study),
        patient=pseudonyms.patient(instance.patient_id, instance.issuer),
        modality=instance.modality,
        shape=planned.shape if planned else (instance.pixels.columns, instance.pixels.rows, len(frames)),
        affine=judged.placed.affine,
        part=label or None,
        b_value=None if is_map else first.b_value,
        directionality=None if is_map else first.directionality,
        image_type=first.image_type,
        scanner=instance.scanner,
        verdict="refused" if refused else "accepted",
        findings=tuple(replace(each, where=name) for each in judged.findings),
        keys=frozenset({instance.series, instance.study, instance.patient_id, instance.accession} - {""}),
        frames=tuple(frames),
        regrid=planned,
    )
