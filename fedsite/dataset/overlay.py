"""What a model found, drawn on the image it found it in: one PNG that can be looked at anywhere.

Axial slices, shown radiologically, with the outline of each label. That it is for research only is part of the
picture, in every slice: whoever crops it keeps the words. It names nobody.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fedsite.dataset.pictures import radiological, window

RESEARCH = "RESEARCH USE ONLY"
COLUMNS, MOST_SLICES = 4, 12
LONGEST_SIDE = 320
_LINE = 20
_TEXT_SIZE = 13
# Far apart also for those who see red and green alike (Okabe and Ito 2008).
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0))
_BAND, _WORDS = (0, 0, 0), (255, 255, 255)

Values = NDArray[np.float32]
Labels = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Drawing:
    """Image and labels in RAS [X, Y, Z], the size in pixels of an axial slice, and what is shown black and white."""

    values: Values
    labels: Labels
    size: tuple[int, int]
    grey: tuple[float, float]
    colours: Mapping[int, Colour]


def overlay(
    values: Values, labels: Labels, affine: NDArray[np.float64], names: Mapping[int, str], lines: Sequence[str]
) -> bytes:
    """A PNG of an image [i, j, k] with the labels on its grid (`affine`: to RAS mm), and lines of text below.

    `names` says what each label is called. Shown are slices that hold a label, else the whole height of the image.
    """
    turn = io_orientation(affine)
    values, labels = (apply_orientation(array, turn) for array in (values, labels))
    x, y, _ = voxel_sizes(affine @ inv_ornt_aff(turn, values.shape))
    width, height = values.shape[0] * x, values.shape[1] * y
    scale = LONGEST_SIDE / max(width, height)
    colours = {label: _COLOURS[index % len(_COLOURS)] for index, label in enumerate(names)}
    size = max(1, round(width * scale)), max(1, round(height * scale))
    drawing = _Drawing(values, labels, size, window(values), colours)
    tiles = [_slice(drawing, z) for z in slices_to_show(labels)]
    file = io.BytesIO()
    _sheet(tiles, {name: colours[label] for label, name in names.items()}, lines).save(file, "PNG", compress_level=3)
    return file.getvalue()


def slices_to_show(labels: Labels) -> list[int]:
    """Up to MOST_SLICES places along the third axis, evenly spread over what is marked, or over all."""
    depth = labels.shape[2]
    count = min(MOST_SLICES, depth)
    marked = np.flatnonzero(labels.any(axis=(0, 1)))
    first, last = (int(marked[0]), int(marked[-1])) if len(marked) else (0, depth - 1)
    # A small lesion is shown with what lies around it.
    around = count - (last - first + 1)
    if around > 0:
        first = min(max(0, first - around // 2), depth - count)
        last = first + count - 1
    return [round(place) for place in np.linspace(first, last, count).tolist()]


def _slice(drawing: _Drawing, z: int) -> Image.Image:
    dark, bright = drawing.grey
    pixels = (radiological(drawing.values[:, :, z]).astype(np.float32) - dark) / max(bright - dark, 1e-6)
    shown = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).resize(drawing.size)
    colour = np.array(shown.convert("RGB"))
    marks = Image.fromarray(np.ascontiguousarray(radiological(drawing.labels[:, :, z]).astype(np.uint8)))
    found = np.array(marks.resize(drawing.size, Image.Resampling.NEAREST))
    for label, ink in drawing.colours.items():
        colour[_edge(found == label)] = ink
    tile = Image.fromarray(colour)
    draw = ImageDraw.Draw(tile)
    draw.text((4, tile.height // 2), "R", fill=_WORDS, font=_font())
    draw.text((4, tile.height - 18), RESEARCH, fill=_WORDS, font=_font(), stroke_width=1, stroke_fill=_BAND)
    return tile


def _edge(marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The marked pixels that touch others."""
    around = np.pad(marks, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    edge: NDArray[np.bool_] = marks & ~inner
    return edge


def _sheet(tiles: Sequence[Image.Image], legend: Mapping[str, Colour], lines: Sequence[str]) -> Image.Image:
    columns = min(COLUMNS, len(tiles))
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    words = [*legend.items(), *((line, _WORDS) for line in lines)]
    sheet = Image.new("RGB", (max(columns, 2) * width, rows * height + _LINE * len(words) + _LINE // 2), _BAND)
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * width, index // columns * height))
    draw = ImageDraw.Draw(sheet)
    for index, (text, ink) in enumerate(words):
        draw.text((6, rows * height + 4 + index * _LINE), text, fill=ink, font=_font())
    return sheet


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(_TEXT_SIZE)
