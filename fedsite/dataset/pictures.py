"""A look at a case, as training will see it: three planes through the lesion, its outline, and the intensities.

Pictures are grey JPEG (ITU-T T.81); the outline is kept beside them as a path, so that it stays sharp and can be hidden
to see what lies below. A look is made from one case alone, and small: about 15 kB.
"""

import base64
import io
import math
import os
import tempfile
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedsite.dataset.manifest import CaseRecord, Closed, Triple

LONGEST_SIDE = 256
BINS = 48
_QUALITY = 85
_DARK, _BRIGHT = 0.5, 99.7
# More voxels than these tell nothing more about how bright an image is.
_ENOUGH_VOXELS = 500_000
_NAMES: tuple[Literal["sagittal", "coronal", "axial"], ...] = ("sagittal", "coronal", "axial")

Volume = NDArray[np.floating] | NDArray[np.integer]
Bits = NDArray[np.bool_]


class Outline(Closed):
    """The border of one label in a plane: a path (SVG 1.1, 8.3) in voxels from the picture's upper left corner."""

    label: int
    path: str


class Plane(Closed):
    """One slice, shown radiologically: the patient's right, or front, on the left.

    `columns` and `rows` are voxels, `width_mm` and `height_mm` their extent; `jpeg` is base64. `outlines` are those of
    the mask, `segmented` those of what a model made of it.
    """

    name: Literal["axial", "coronal", "sagittal"]
    channel: int
    columns: int
    rows: int
    width_mm: float
    height_mm: float
    jpeg: str
    outlines: tuple[Outline, ...]
    segmented: tuple[Outline, ...] = ()


class Histogram(Closed):
    """Counts of voxels by intensity in equal steps from `low` to `high`: of the whole image, and within the mask."""

    low: float
    high: float
    image: tuple[int, ...]
    lesion: tuple[int, ...]


class Look(Closed):
    """What the report shows of one case: three planes of its first channel, then one of each other channel."""

    planes: tuple[Plane, ...]
    histogram: Histogram


class Album:
    """Looks at cases, kept on disk in a file without a name: any number of them costs no memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - the album's own __exit__ closes it
        self._places: dict[str, tuple[int, int]] = {}

    def keep(self, case: str, look: Look) -> None:
        """Keeps the look at a case."""
        content = look.model_dump_json().encode()
        self._places[case] = (self._file.seek(0, os.SEEK_END), len(content))
        self._file.write(content)

    def of(self, case: CaseRecord) -> Look:
        """The look that was kept of a case."""
        place, length = self._places[case.id]
        self._file.seek(place)
        return Look.model_validate_json(self._file.read(length))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def look(
    image: Volume, label: NDArray[np.uint8], spacing_mm: Triple, segmented: NDArray[np.uint8] | None = None
) -> Look:
    """Looks at image [C, X, Y, Z] with label [X, Y, Z], both RAS on a grid of `spacing_mm`.

    With what a model made of it, `segmented` [X, Y, Z], the planes lie where either is large.
    """
    masks = [label] if segmented is None else [label, segmented]
    point = middle_of_lesion(np.maximum.reduce(masks))
    planes: list[Plane] = []
    for channel, volume in enumerate(image):
        if channel and not volume.any():
            continue  # the study did not have it
        grey = window(volume)
        axes = (2, 1, 0) if channel == 0 else (2,)
        planes += [_plane(volume, masks, spacing_mm, channel, axis, point[axis], grey) for axis in axes]
    return Look(planes=tuple(planes), histogram=histogram(image[0], label))


def middle_of_lesion(label: NDArray[np.uint8]) -> tuple[int, int, int]:
    """A voxel of the lesion where it is large: in the fullest axial slice the fullest row, in that row the middle.

    (The centre of mass may lie outside of every focus.) Without a lesion the middle of the volume.
    """
    area = np.count_nonzero(label, axis=(0, 1))
    if not area.any():
        return label.shape[0] // 2, label.shape[1] // 2, label.shape[2] // 2
    z = int(area.argmax())
    y = int(np.count_nonzero(label[:, :, z], axis=0).argmax())
    marked = np.flatnonzero(label[:, y, z])
    return int(marked[len(marked) // 2]), y, z


def histogram(volume: Volume, label: NDArray[np.uint8]) -> Histogram:
    """How bright the image [X, Y, Z] is, all of it and within the mask."""
    values, inside = _sample(volume), np.asarray(volume[label > 0], np.float32)
    low, high = np.percentile(values, [_DARK, _BRIGHT])
    if inside.size:
        high = max(high, np.percentile(inside, _BRIGHT))
    high = max(high, low + 1e-6)
    counts = [np.histogram(np.clip(part, low, high), BINS, (low, high))[0].tolist() for part in (values, inside)]
    return Histogram(low=float(low), high=float(high), image=counts[0], lesion=counts[1])


def outline(mask: Bits) -> str:
    """The edges between marked and other pixels of mask [rows, columns], as a path of straight runs."""
    padded = np.pad(mask, 1)
    across = (padded[1:, 1:-1] != padded[:-1, 1:-1]).astype(np.int8)
    down = (padded[1:-1, 1:] != padded[1:-1, :-1]).astype(np.int8).T
    runs = [f"M{start} {line}h{length}" for line, start, length in _runs(across)]
    return "".join(runs + [f"M{line} {start}v{length}" for line, start, length in _runs(down)])


def _runs(edges: NDArray[np.int8]) -> list[tuple[int, int, int]]:
    """The runs of ones in each line: line, start, length."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))), axis=1)
    lines, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    return list(zip(lines.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True))


def mosaic(volume: Volume) -> tuple[str, int, int]:
    """Every axial slice of a small volume [X, Y, Z] side by side, from the lowest: PNG as base64, columns and rows.

    Each pixel is a voxel; a page enlarges them.
    """
    slices = [radiological(volume[:, :, index]) for index in range(volume.shape[2])]
    across = math.ceil(math.sqrt(len(slices)))
    slices += [np.full_like(slices[0], volume.min())] * (-len(slices) % across)
    rows = [np.concatenate(slices[start : start + across], axis=1) for start in range(0, len(slices), across)]
    pixels = _grey(np.concatenate(rows), window(volume))
    file = io.BytesIO()
    pixels.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode(), pixels.width, pixels.height


def _plane(
    volume: Volume,
    masks: Sequence[NDArray[np.uint8]],
    spacing_mm: Triple,
    channel: int,
    axis: int,
    index: int,
    window: tuple[float, float],
) -> Plane:
    """The slice across `axis`. In RAS, turning both axes round and over gives the radiological view in all three."""
    across, up = (side for side in range(3) if side != axis)
    pixels = radiological(np.take(volume, index, axis))
    outlines = [_outlines(radiological(np.take(mask, index, axis))) for mask in masks]
    rows, columns = pixels.shape
    return Plane(
        name=_NAMES[axis],
        channel=channel,
        columns=columns,
        rows=rows,
        width_mm=round(columns * spacing_mm[across], 2),
        height_mm=round(rows * spacing_mm[up], 2),
        jpeg=_jpeg(pixels, window),
        outlines=outlines[0],
        segmented=outlines[1] if len(outlines) > 1 else (),
    )


def _outlines(marks: NDArray[np.generic]) -> tuple[Outline, ...]:
    """The outline of each label in a plane of labels."""
    return tuple(
        Outline(label=int(value), path=outline(marks == value)) for value in np.unique(np.asarray(marks)) if value
    )


def radiological(plane: NDArray[np.generic]) -> NDArray[np.generic]:
    """A slice of a RAS volume as it is looked at: the patient's right, or front, on the left."""
    return plane[::-1, ::-1].T


def _jpeg(pixels: NDArray[np.generic], window: tuple[float, float]) -> str:
    shown = _grey(pixels, window)
    shown.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _grey(pixels: NDArray[np.generic], window: tuple[float, float]) -> Image.Image:
    dark, bright = window
    scaled = (np.asarray(pixels, np.float32) - dark) / max(bright - dark, 1e-6)
    return Image.fromarray(np.asarray(np.clip(scaled, 0, 1) * 255, np.uint8))


def window(volume: Volume) -> tuple[float, float]:
    """What is shown black and white: nearly the darkest and the brightest of the image [X, Y, Z]."""
    dark, bright = np.percentile(_sample(volume), [_DARK, _BRIGHT])
    return float(dark), float(bright)


def _sample(volume: Volume) -> NDArray[np.float32]:
    """Evenly spread voxels: all of them, or about as many as are enough."""
    step = math.ceil((volume.size / _ENOUGH_VOXELS) ** (1 / 3))
    return np.asarray(volume[::step, ::step, ::step], np.float32).reshape(-1)
