"""Label objects that nobody in this project made: what they mark is where others say it is."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.labels.marking import Marked
from fedsite.dicom.labels.objects import read_label_object
from fedsite.dicom.labels.reading import read_label
from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.site.pseudonyms import Pseudonyms

LESION = {1: "lesion"}
# The images on which highdicom's test files were drawn come with pydicom.
CT = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / "77654033" / "CT2"


def volume_in(folder: Path) -> Volume:
    found = [volume for volume in scan(folder, Pseudonyms(bytes(32))).volumes if volume.modality in ("CT", "MR")]
    (volume,) = found
    return volume


def read(path: Path, volume: Volume) -> Marked:
    with tolerant_reading():
        label = read_label_object(str(path))
    assert label is not None
    return read_label(label, [volume], LESION)


def broken(marked: Marked) -> list[str]:
    return [problem.id for problem in marked.findings]


def test_dcmqis_segmentation_equals_the_nrrd_that_it_was_made_from(real_data: Path):
    folder = real_data / "seg_dcmqi"
    marked = read(folder / "23x38x3_seg" / "label.seg", volume_in(folder / "23x38x3_image"))
    _, _, packed = (folder / "23x38x3_nrrd" / "label.nrrd").read_bytes().partition(b"\n\n")
    drawn = np.frombuffer(gzip.decompress(packed), "<i2").reshape(3, 38, 23)
    np.testing.assert_array_equal(marked.values, drawn.T)
    assert marked.values.sum() == 322
    assert broken(marked) == []


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """The three of the four images that lie side by side."""
    folder = tmp_path_factory.mktemp("ct")
    slices = sorted(CT.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    for path in slices[1:]:
        shutil.copyfile(path, folder / path.name)
    return volume_in(folder)


def by_highdicom(path: Path) -> np.ndarray:
    """The segment as highdicom itself builds it, which counts slices from above, as [column, row, slice]."""
    from highdicom.seg import segread

    return segread(path).get_volume(combine_segments=False).array[::-1, :, :, 0].transpose(2, 1, 0)


@pytest.mark.parametrize(
    ("name", "said"), [("binary", []), ("binary_fractional", []), ("true_fractional", ["label-fractional"])]
)
def test_highdicoms_own_segmentations(real_data: Path, ct: Volume, name: str, said: list[str]):
    path = real_data / "seg_highdicom" / "test_files" / f"seg_image_ct_{name}.dcm"
    marked = read(path, ct)
    np.testing.assert_array_equal(marked.values, by_highdicom(path) >= 0.5)
    assert marked.values.any()
    assert broken(marked) == said


@pytest.mark.parametrize(
    ("name", "rule"), [("binary_overlap", "label-parts-unnamed"), ("binary_single_frame", "label-other-frame")]
)
def test_highdicoms_segmentations_that_do_not_fit(real_data: Path, ct: Volume, name: str, rule: str):
    assert broken(read(real_data / "seg_highdicom" / "test_files" / f"seg_image_ct_{name}.dcm", ct)) == [rule]


def test_overlapping_segments_have_no_common_meaning(real_data: Path, ct: Volume):
    with tolerant_reading():
        label = read_label_object(str(real_data / "seg_highdicom" / "test_files" / "seg_image_ct_binary_overlap.dcm"))
    assert label is not None
    names = {1: "first segment", 2: "second segment"}
    # It was drawn on one more slice, which lies 20 cm away; its frames say so first.
    assert broken(read_label(label, [ct], names)) == ["label-wrong-reference"]


RT = "rtstruct/rt_utils_mock"


def test_rt_utils_structure_set_has_the_area_of_its_polygons(real_data: Path):
    """A square of 24 mm, drawn around a hole; rt-utils invents a frame of reference."""
    volume = volume_in(real_data / RT)
    marked = read(real_data / RT / "rt.dcm", volume)
    assert broken(marked) == ["label-frame-unlike"]
    dataset = pydicom.dcmread(real_data / RT / "rt.dcm")
    areas = [shoelace(contour.ContourData) for contour in dataset.ROIContourSequence[0].ContourSequence]
    pixel = volume.spacing[0] * volume.spacing[1]
    assert marked.values[:, :, 0].sum() * pixel == pytest.approx(areas[0] - areas[1], rel=0.03)
    assert not marked.values[:, :, 1].any()


def shoelace(numbers: list[float]) -> float:
    x, y, _ = np.array(numbers, float).reshape(-1, 3).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


@pytest.mark.parametrize("name", ["invalid_reference_rt", "non_existent_reference_rt"])
def test_a_structure_set_on_images_that_are_not_there(real_data: Path, name: str):
    """Its contours name a slice that was not exported; read with names that all four structures bear."""
    volume = volume_in(real_data / RT)
    with tolerant_reading():
        label = read_label_object(str(real_data / RT / f"{name}.dcm"))
    assert label is not None
    assert broken(read_label(label, [volume], {1: "ROI"})) == ["label-wrong-reference"]
