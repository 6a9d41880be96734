"""Masks that are DICOM objects, through `fedsite prepare-data` as installed: the right voxels, and nobody's name."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support.bids_maker import Head, head
from support.dicom_maker import Grid, Names, classic, names, write
from support.label_maker import PLANTED, box, on_slice, segmentation, structure_set
from support.site import Site

from fedsite.dataset import cases, manifest

MM3 = 4 * 4 * 6


@dataclass(frozen=True)
class Study:
    """A head as a trace series and its b0, on one grid."""

    content: Head
    grid: Grid
    trace: list[Dataset]
    b0: list[Dataset]

    @property
    def lesion(self) -> np.ndarray:
        """The mask as [slice, row, column] of the series."""
        return stacked(self.content.mask)


def stacked(values: np.ndarray) -> np.ndarray:
    return values.transpose(2, 1, 0)[:, ::-1]


def study(seed: int) -> Study:
    content = head(seed)
    columns, rows, slices = content.image.shape
    corner = content.affine @ [0, rows - 1, 0, 1]
    grid = Grid(
        columns=columns,
        rows=rows,
        slices=slices,
        between_columns=4.0,
        between_rows=4.0,
        step=6.0,
        origin=(-corner[0], -corner[1], corner[2]),
    )
    stored = stacked(content.image).astype(np.uint16)
    who: Names = replace(names(), patient=f"patient-{seed}")
    sister = replace(who, series=names().series)
    trace = {"DiffusionBValue": 1000.0, "DiffusionDirectionality": "ISOTROPIC"}
    plain = {"DiffusionBValue": 0.0, "DiffusionDirectionality": "NONE"}
    return Study(
        content,
        grid,
        classic(grid=grid, voxels=stored, who=who, ImageType=["DERIVED", "PRIMARY", "TRACEW"], **trace),
        classic(grid=grid, voxels=stored // 2, who=sister, **plain),
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "site")
    site.init(preparation={"spacing_mm": [4.0, 4.0, 4.0]})
    return site


def outlined(one: Study) -> dict[str, list[np.ndarray]]:
    """The lesion with every row of voxels outlined, which is coarse but exact."""
    contours = []
    for k, row in np.argwhere(one.lesion.any(axis=2)):
        columns = np.flatnonzero(one.lesion[k, row])
        runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        contours += [on_slice(one.grid, k, box((run[0] - 0.5, row - 0.5), (run[-1] + 0.5, row + 0.5))) for run in runs]
    return {PLANTED[1]: contours}


def test_label_objects_from_end_to_end(tmp_path: Path, site: Site):
    export, labels = tmp_path / "export", tmp_path / "labels"
    beside, apart, unnamed, doubled, astray = (study(seed) for seed in range(5))
    for each in (beside, apart, unnamed, doubled, astray):
        write(export, [*each.trace, *each.b0])
    both = np.stack([unnamed.lesion, np.roll(unnamed.lesion, 3, axis=1)], axis=-1)
    drawn = [
        segmentation(beside.trace, beside.lesion),
        segmentation(unnamed.trace, both, segments=PLANTED[:2]),
        segmentation(doubled.trace, doubled.lesion),
    ]
    given = [
        structure_set(apart.b0, outlined(apart)),
        segmentation(doubled.b0, doubled.lesion, "LABELMAP"),
        segmentation(astray.trace, astray.lesion, FrameOfReferenceUID="1.2.3.4"),
    ]
    write(export, drawn)
    # The first lies in both folders, and is one mask all the same.
    write(labels, [*given, drawn[0]])

    answer = site.run("prepare-data", str(export), "--task", "stroke-dwi", "--labels", str(labels))
    assert answer.code == 0, answer.stderr
    found = manifest.load(site.data)
    assert {record.lesion_ml for record in found.cases} == {
        round(float(each.lesion.sum()) * MM3 / 1000, 4) for each in (beside, apart)
    }
    for record in found.cases:
        case = cases.open_case(site.data / record.file)
        assert case.image[0][case.label > 0].mean() > case.image[0][case.label == 0].mean() + 3
    reasons = sorted(excluded.reason.id for excluded in found.excluded)
    assert reasons == ["label-ambiguous", "label-other-frame", "label-parts-unnamed"]
    ambiguous = next(each.reason for each in found.excluded if each.reason.id == "label-ambiguous")
    assert ambiguous.message.count("s-") == 2

    said = [answer.stdout.encode(), answer.stderr.encode()]
    written = [content for path in (site.home).rglob("*") if path.is_file() for content in [path.read_bytes()]]
    secrets = [
        *PLANTED,
        "patient-0",
        str(export),
        str(labels),
        beside.trace[0].SeriesInstanceUID,
        drawn[0].SOPInstanceUID,
    ]
    for secret in secrets:
        for encoding in ("utf-8", "latin-1"):
            assert not any(secret.encode(encoding) in content for content in [*said, *written]), secret
    assert all(os.fsencode(PLANTED[1]) not in os.fsencode(path) for path in site.home.rglob("*"))
