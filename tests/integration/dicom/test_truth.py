"""Series that nobody in this project made: the command answers as their truth says, verdicts, geometry and voxels."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.jobs.data.inspect import read_all
from fedsite.site.pseudonyms import Pseudonyms

# The series of truth.json ("a__b" is folder a/b). The last word says whether a reader takes or refuses them.
LOAD = (
    "ct_philips__brain_5mm",
    "d2n_generic__anatomical_001",
    "d2n_generic__anatomical_002_non_isotropic",
    "d2n_generic__compressed_001",
    "d2n_generic__compressed_j2k_001",
    "d2n_generic__compressed_jpeg_001",
    "d2n_generic__compressed_jpegls_001",
    "d2n_generic__compressed_rle_001",
    "deident__ge_ir_spgr_part",
    "mr_siemens_decubitus__t1_sag_hfs",
    "mr_siemens_xa30__t1w_enhanced",
    "seg_dcmqi__23x38x3_image",
)
REFUSE = {
    "ct_philips__exam_summary_sc": {"secondary-capture"},
    "ct_philips__localizer": {"localizer"},
    "d2n_failing__gantrytilting_001": {"tilt"},
    "d2n_failing__notavolume_001": {"repeated-acquisitions"},
    "d2n_failing__slicecount_001": {"too-few-slices"},
    "d2n_failing__sliceincrement_001": {"missing-slices"},
    "d2n_generic__rgb_001": {"secondary-capture"},
    "pydicom_data__693_J2KR": {"too-few-slices"},
    "pydicom_data__MR2_J2KR": {"too-few-slices"},
    "pydicom_data__emri_small": {"missing-geometry"},
    "rtstruct__rt_utils_mock": {"too-few-slices", "radiotherapy-object"},
    "seg_dcmqi__23x38x3_seg": {"segmentation"},
    "seg_highdicom__test_files": {"not-ct-or-mr", "segmentation", "structured-report", "too-few-slices"},
}
DIVIDED = ("mr_siemens_xa30__fmap_enhanced",)
NOTHING = ("seg_dcmqi__23x38x3_nrrd",)

CORNER_MM = 0.02
VALUE_TOLERANCE = 0.001


@pytest.fixture(scope="module")
def truth(real_data: Path) -> dict[str, dict[str, Any]]:
    return {row["series"]: row for row in json.loads((real_data / "truth.json").read_text())}


def inspected(real_data: Path, series: str, folder: Path) -> tuple[Volume, ...]:
    """What `fedsite inspect --volumes` does, without the seconds that a process takes (see test_inspect)."""
    inventory = read_all(scan(real_data / series.replace("__", "/"), Pseudonyms(b"k" * 32)), folder)
    written = {path.name for path in folder.iterdir()}
    assert written == {f"{volume.id}.nii.gz" for volume in inventory.volumes if volume.verdict == "accepted"}
    return inventory.volumes


def assert_same_volume(folder: Path, volume: Volume, expected: dict[str, Any]) -> None:
    written = nib.load(folder / f"{volume.id}.nii.gz")
    np.testing.assert_allclose(written.affine, volume.affine, atol=1e-5)
    assert written.shape == volume.shape
    ours = nib.as_closest_canonical(written)
    voxels = np.asarray(ours.dataobj, np.float32)
    there = nib.Nifti1Image(np.zeros(expected["shape"], np.uint8), np.array(expected["affine"]))
    canonical = nib.as_closest_canonical(there)
    assert voxels.shape == canonical.shape
    assert farthest_corner(ours, canonical) < CORNER_MM
    largest = float(np.abs(voxels).max())
    assert float(voxels.mean(dtype=np.float64)) == pytest.approx(expected["mean"], abs=VALUE_TOLERANCE * largest)
    np.testing.assert_allclose(block_means(voxels), expected["blocks"], atol=VALUE_TOLERANCE * largest)
    assert hashlib.sha1(voxels.tobytes()).hexdigest()[:16] == expected["sha1"]


def farthest_corner(one: nib.Nifti1Image, other: nib.Nifti1Image) -> float:
    """How far the corners of two grids of one shape lie apart at most, in mm."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, side - 1) for side in one.shape))])
    return float(np.linalg.norm(corners @ (one.affine - other.affine).T, axis=1).max())


def block_means(voxels: np.ndarray) -> list[float]:
    """The means of 4 x 4 x 4 blocks."""
    parts = [np.array_split(np.arange(side), 4) for side in voxels.shape]
    blocks = (voxels[np.ix_(*indices)] for indices in itertools.product(*parts) if all(map(len, indices)))
    return [block.mean(dtype=np.float64) for block in blocks]


def test_every_row_of_the_truth_is_tested(truth: dict[str, dict[str, Any]]) -> None:
    assert truth.keys() == {*LOAD, *REFUSE, *DIVIDED, *NOTHING}
    assert {row["series"] for row in truth.values() if row["expect"] == "load"} == set(LOAD)


@pytest.mark.parametrize("series", LOAD)
def test_a_clean_volume_is_loaded_as_it_is(
    real_data: Path, truth: dict[str, dict[str, Any]], series: str, tmp_path: Path
) -> None:
    (volume,) = inspected(real_data, series, tmp_path)
    assert (volume.verdict, volume.part) == ("accepted", None)
    (expected,) = truth[series]["volumes"]
    assert_same_volume(tmp_path, volume, expected)


@pytest.mark.parametrize("series", REFUSE)
def test_what_is_no_clean_volume_is_refused_with_its_reason(real_data: Path, series: str, tmp_path: Path) -> None:
    volumes = inspected(real_data, series, tmp_path)
    assert {volume.verdict for volume in volumes} == {"refused"}
    errors = {each.id for volume in volumes for each in volume.findings if each.severity == "error"}
    assert errors == REFUSE[series]


@pytest.mark.parametrize("series", DIVIDED)
def test_a_series_of_clean_volumes_is_divided(
    real_data: Path, truth: dict[str, dict[str, Any]], series: str, tmp_path: Path
) -> None:
    volumes = inspected(real_data, series, tmp_path)
    expected = truth[series]["volumes"]
    assert len(volumes) == len(expected)
    assert len({volume.part for volume in volumes}) == len(volumes)
    for volume, one in zip(volumes, expected, strict=True):
        assert volume.verdict == "accepted"
        assert_same_volume(tmp_path, volume, one)


def test_the_geometry_of_a_tilted_series_is_that_of_its_positions(
    real_data: Path, truth: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    series = "d2n_failing__gantrytilting_001"
    (volume,) = inspected(real_data, series, tmp_path)
    (sheared,) = (each for each in truth[series]["volumes"] if each["kind"] == "sheared")
    ours = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(volume.shape, np.uint8), volume.affine))
    stated = nib.Nifti1Image(np.zeros(sheared["shape"], np.uint8), np.array(sheared["affine"]))
    theirs = nib.as_closest_canonical(stated)
    assert farthest_corner(ours, theirs) < CORNER_MM


@pytest.mark.parametrize("series", NOTHING)
def test_no_dicom_at_all(real_data: Path, series: str) -> None:
    assert scan(real_data / series.replace("__", "/"), Pseudonyms(b"k" * 32)).volumes == ()
