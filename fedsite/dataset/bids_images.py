"""One image in a NIfTI file, by its header and what lies beside it: BIDS's JSON, FSL's b-values and directions.

Of a file that holds a whole diffusion series, the volumes are taken whose b-value is in the task's range and nearest to
the preferred one: the trace if it is among them, else the geometric mean of the directions.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import nifti
from fedsite.dataset.rules import finding
from fedsite.dataset.selection import B_TOLERANCE, are_spread
from fedsite.dataset.studies import Candidates, ImageSource
from fedsite.dicom.checks import Finding
from fedsite.dicom.header import deidentification
from fedsite.errors import DataNotFit
from fedsite.tasks.description import Channel

LEAST_SIDE = 3
_B_VALUE_KEYS = ("DiffusionBValue", "b_value", "bvalue", "0018,9087", "00189087")
_SCANNER_KEYS = ("Manufacturer", "ManufacturersModelName", "ManufacturerModelName")
_SCANNER_LENGTH = 64
# Converters write a direction of length 0 where there is none: b = 0, or a trace.
_NO_DIRECTION = 0.1


@dataclass(frozen=True)
class _Content:
    """What is taken of a file: some of its volumes (none named: it holds but one), their b-value, what to say of it."""

    volumes: tuple[int, ...]
    b_value: float | None
    remarks: tuple[Finding, ...] = ()


def read_image(path: Path, name: str, channel: Channel, volume: int | None = None) -> ImageSource | Finding:
    """An image for a channel, not read yet, or the finding that refuses it. Raises SourceMissing.

    `volume` says which one of a file of several is meant; else that is found out for diffusion series, and others are
    refused.
    """
    try:
        geometry = nifti.read_geometry(path)
        sidecar = nifti.read_sidecar(path)
    except DataNotFit as error:
        return finding("image-unreadable", name, reason=error.message)
    if len(geometry.shape) not in (3, 4) or min(geometry.shape[:3]) < LEAST_SIDE:
        return _not_3d(name, geometry.shape)
    if not geometry.stated:
        return finding("geometry-missing", name)
    if sidecar.get("Modality", channel.modality) != channel.modality:
        return finding("modality-wrong", name, modality=channel.modality)
    several = len(geometry.shape) == 4
    if several and volume is not None:
        content = _Content((volume,), None) if volume < geometry.shape[3] else _not_3d(name, geometry.shape)
    elif several:
        content = _of_series(path, name, channel, geometry.shape)
    else:
        content = _of_one(path, name, channel, sidecar)
    if isinstance(content, Finding):
        return content
    first, second, third = geometry.shape[:3]
    scanner = " ".join(str(sidecar.get(key, "")) for key in _SCANNER_KEYS)
    return ImageSource(
        id=name,
        channel=channel.name,
        shape=(first, second, third),
        affine=geometry.affine,
        b_value=content.b_value,
        scanner=" ".join(scanner.split())[:_SCANNER_LENGTH],
        findings=content.remarks,
        files=(path, *(beside for ending in ("json", "bval", "bvec") if (beside := _beside(path, ending)).exists())),
        origin=nifti.Part(path, content.volumes) if content.volumes else path,
        frame_of_reference=geometry.frame,
        quantity=channel.quantity,
    )


def without_identified(found: Candidates) -> Candidates:
    """What remains of a study's images when those are refused whose sidecars say who the patient is."""
    kept: dict[str, list[ImageSource]] = {}
    refused = {channel: list(problems) for channel, problems in found.refused.items()}
    for channel, images in found.images.items():
        for image in images:
            told = deidentification.told_by(nifti.read_sidecar(image.files[0]))
            if told:
                refused.setdefault(channel, []).append(finding("direct-identifiers", image.id, what=told))
            else:
                kept.setdefault(channel, []).append(image)
    return replace(found, images=kept, refused=refused)


def _of_one(path: Path, name: str, channel: Channel, sidecar: dict[str, Any]) -> _Content | Finding:
    """What a file of one volume is."""
    if channel.b_values is None:
        return _Content((), None)
    b_value = _b_value(path, sidecar)
    low, high = channel.b_values
    if b_value is None:
        return _Content((), None, (finding("b-value-assumed", name, low=low, high=high),))
    if not low <= b_value <= high:
        return finding("b-value-out-of-range", name, b_value=b_value, low=low, high=high)
    return _Content((), b_value)


def _of_series(path: Path, name: str, channel: Channel, shape: tuple[int, ...]) -> _Content | Finding:
    """What to take of a file of several volumes."""
    b_values = _numbers(path, "bval")
    if channel.b_values is None or b_values is None or b_values.shape != (1, shape[3]):
        return _not_3d(name, shape)
    low, high = channel.b_values
    distances = np.abs(b_values[0] - channel.preferred_b_value)
    inside = (low <= b_values[0]) & (b_values[0] <= high)
    if not inside.any():
        nearest = float(b_values[0, distances.argmin()])
        return finding("b-value-out-of-range", name, b_value=nearest, low=low, high=high)
    nearest = float(b_values[0, np.where(inside, distances, np.inf).argmin()])
    shell = np.flatnonzero(inside & (np.abs(b_values[0] - nearest) <= B_TOLERANCE))
    directions = _numbers(path, "bvec")
    if directions is None or directions.shape != (3, shape[3]):
        silent = (finding("directionality-unknown", name),)
        return _Content((int(shell[0]),), nearest, silent) if len(shell) == 1 else finding("trace-missing", name)
    of_shell = directions.T[shell]
    traces = shell[np.linalg.norm(of_shell, axis=1) < _NO_DIRECTION]
    if len(traces) > 1:
        return finding("several-candidates", name, count=len(traces), kind=channel.summary, images=name)
    if len(traces) == 1:
        return _Content((int(traces[0]),), nearest)
    if not are_spread(of_shell):
        return finding("trace-missing", name)
    return _Content(tuple(map(int, shell)), nearest, (finding("trace-computed", name, count=len(shell)),))


def _not_3d(name: str, shape: tuple[int, ...]) -> Finding:
    return finding("image-not-3d", name, sizes=" x ".join(str(side) for side in shape))


def _b_value(path: Path, sidecar: dict[str, Any]) -> float | None:
    """From the sidecar, else from FSL's `.bval` beside the image; None where neither says one number."""
    stated = next((sidecar[key] for key in _B_VALUE_KEYS if key in sidecar), None)
    if stated is None:
        numbers = _numbers(path, "bval")
        return None if numbers is None or numbers.size != 1 else float(numbers[0, 0])
    values = stated if isinstance(stated, list) else [stated]
    try:
        return float(values[0]) if len(values) == 1 else None
    except (TypeError, ValueError):
        return None


def _numbers(path: Path, ending: str) -> NDArray[np.float64] | None:
    """The rows of numbers in a file beside an image (`.bval`: one, `.bvec`: three); None where there are none."""
    try:
        lines = _beside(path, ending).read_text(encoding="ascii").splitlines()
        numbers = np.array([[float(word) for word in line.split()] for line in lines if line.strip()])
    except (OSError, ValueError):  # absent, no text, no numbers, or rows of different lengths
        return None
    return numbers if numbers.ndim == 2 and np.isfinite(numbers).all() else None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{nifti.stem(path)}.{ending}")
