"""A small series and what reads label objects that were drawn on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from support.dicom_maker import Grid, classic, write
from support.label_maker import PLANTED, box, on_slice

from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.labels.marking import Marked
from fedsite.dicom.labels.objects import read_label_object
from fedsite.dicom.labels.reading import read_label
from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.site.pseudonyms import Pseudonyms

GRID = Grid(columns=24, rows=20, slices=6)
LESION = {1: "lesion"}
SQUARE = on_slice(GRID, 2, box((4.5, 4.5), (7.5, 7.5)))


def blob(grid: Grid = GRID) -> np.ndarray:
    """Something without any symmetry, on slices 2 and 3 [slice, row, column]."""
    marked = np.zeros((grid.slices, grid.rows, grid.columns), np.uint8)
    marked[2, 3:7, 10:17] = 1
    marked[2, 5:9, 12:14] = 1
    marked[3, 4, 11] = 1
    return marked


@dataclass(frozen=True)
class Scene:
    """A series, and what reads a label object that was drawn on it."""

    folder: Path
    images: list[Dataset]
    volume: Volume

    def read(self, label: Dataset, labels: Mapping[int, str] | None = None) -> Marked:
        (path,) = write(self.folder / "labels", [label])
        with tolerant_reading():
            known = read_label_object(str(path))
        assert known is not None
        marked = read_label(known, [self.volume], LESION if labels is None else labels)
        path.unlink()
        assert not any(name in str(marked.findings) for name in PLANTED)
        return marked


def broken(marked: Marked) -> list[str]:
    return [problem.id for problem in marked.findings]


def drawn(marked: Marked) -> np.ndarray:
    """What is marked, as [slice, row, column]."""
    return marked.values.transpose(2, 1, 0)


def two(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([first, second], axis=-1)


def scene(folder: Path, images: list[Dataset] | None = None, resample: frozenset[str] = frozenset()) -> Scene:
    """A series in a folder of its own: a small one, unless it is given."""
    images = classic("MR", GRID) if images is None else images
    write(folder / "images", images)
    (volume,) = scan(folder / "images", Pseudonyms(bytes(32)), resample=resample).volumes
    return Scene(folder, images, volume)
