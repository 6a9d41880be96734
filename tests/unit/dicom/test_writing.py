"""Segmentations that fedsite writes: read back by highdicom and by our own reader, each voxel where it was found."""

import io
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import Segmentation, segread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from support.dicom_maker import AXIAL, SAGITTAL, Grid, classic, diffusion_group, enhanced, names
from support.dicom_maker import write as write_images
from support.label_scene import Scene, scene

from fedsite.dicom.labels import writing
from fedsite.dicom.labels.writing import Algorithm, Segment, Unwritable
from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.errors import SourceMissing
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks import registry

LESION = Segment(1, "lesion", "301766008", "Lesion of Brain")
TUMOUR = (
    Segment(1, "necrosis", "6574001", "Necrosis"),
    Segment(2, "oedema", "79654002", "Edema"),
    Segment(4, "enhancing tumour", "108369006", "Neoplasm"),
)
ALGORITHM = Algorithm("fedsite stroke-dwi", "9.9", "ab" * 32, {"plan": "north-1"})

OBLIQUE_ROW, OBLIQUE_COLUMN = (0.8, 0.6, 0.0), (-0.36, 0.48, 0.8)
GRIDS = {
    "axial": Grid(9, 7, 5, *AXIAL),
    "sagittal, anisotropic": Grid(7, 9, 6, *SAGITTAL, between_rows=0.9, between_columns=0.45, step=4.4),
    "oblique": Grid(8, 6, 5, OBLIQUE_ROW, OBLIQUE_COLUMN, step=2.5, origin=(-31.3, 12.07, 5.55)),
    "upside down": Grid(6, 8, 4, (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), between_rows=0.5, between_columns=1.25),
}
MAKERS = {"classic": classic, "enhanced": lambda modality, grid: [enhanced(modality, [grid])]}


def blob(shape: Sequence[int], segments: Sequence[Segment] = (LESION,), seed: int = 4) -> np.ndarray:
    """Label values [column, row, slice] without any symmetry; the first and last slice stay empty."""
    values = (
        np.random.default_rng(seed).choice([0, 0, *(segment.value for segment in segments)], shape).astype(np.uint8)
    )
    values[:, :, [0, -1]] = 0
    return values


def encode(
    volumes: Volume | Sequence[Volume], values: np.ndarray, segments: Sequence[Segment] = (LESION,)
) -> Segmentation:
    """Written, and read by highdicom."""
    volumes = [volumes] if isinstance(volumes, Volume) else volumes
    return segread(io.BytesIO(writing.encode(volumes, values, segments, ALGORITHM)))


def in_space(made: Segmentation, affine: np.ndarray) -> np.ndarray:
    """Where highdicom says that the marked voxels lie: sorted indices [n, 3] of a grid, whose affine is RAS."""
    volume = made.get_volume(combine_segments=True)
    marked = np.argwhere(volume.array)
    world = marked @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    exact = (world * [-1, -1, 1] - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    nearest = np.rint(exact)
    assert np.abs(exact - nearest).max() < 1e-3
    return np.unique(nearest.astype(int), axis=0)


def each_slice(made: Segmentation, volume: Volume, classic_images: bool) -> np.ndarray:
    """What highdicom gives for each of the volume's slices by what the frames refer to, [column, row, slice]."""
    if classic_images:
        uids = [frame.instance.sop_instance for frame in volume.frames]
        planes = made.get_pixels_by_source_instance(
            uids, combine_segments=True, assert_missing_frames_are_empty=True, relabel=False
        )
    else:
        planes = made.get_pixels_by_source_frame(
            volume.frames[0].instance.sop_instance,
            [frame.index + 1 for frame in volume.frames],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        )
    return np.asarray(planes).transpose(2, 1, 0)


@pytest.mark.parametrize(
    ("modality", "kind", "grid"),
    [
        ("CT", "classic", "axial"),
        ("CT", "classic", "oblique"),
        ("MR", "classic", "sagittal, anisotropic"),
        ("MR", "classic", "upside down"),
        ("CT", "enhanced", "oblique"),
        ("CT", "enhanced", "upside down"),
        ("MR", "enhanced", "axial"),
        ("MR", "enhanced", "sagittal, anisotropic"),
    ],
)
def test_every_voxel_comes_back(tmp_path: Path, modality: str, kind: str, grid: str) -> None:
    there = scene(tmp_path, MAKERS[kind](modality, GRIDS[grid]))
    values = blob(there.volume.shape)
    made = encode(there.volume, values)
    np.testing.assert_array_equal(each_slice(made, there.volume, kind == "classic"), values)
    np.testing.assert_array_equal(in_space(made, there.volume.affine), np.argwhere(values))
    np.testing.assert_array_equal(there.read(made).values, values)


def test_several_labels_keep_their_values(tmp_path: Path) -> None:
    there = scene(tmp_path)
    values = blob(there.volume.shape, TUMOUR)
    made = encode(there.volume, values, TUMOUR)
    assert [made.get_segment_description(number).segment_label for number in (1, 2, 3)] == [one.name for one in TUMOUR]
    assert [code.value for code in made.segmented_property_types] == [one.code for one in TUMOUR]
    assert {code.scheme_designator for code in made.segmented_property_types} == {"SCT"}
    read = there.read(made, {segment.value: segment.name for segment in TUMOUR})
    np.testing.assert_array_equal(read.values, values)


@pytest.mark.parametrize("name", registry.names())
def test_the_standard_knows_what_labels_show(name: str) -> None:
    task, known = registry.get(name), codes.cid7151
    concepts = [task.concept(label) for label in task.labels if label]
    meant = {(code.value, code.scheme_designator, code.meaning) for code in map(known.__getattr__, known.dir())}
    assert {(concept.code, "SCT", concept.meaning) for concept in concepts} <= meant
    assert len({one.code for one in concepts}) == len(concepts)


def test_nothing_found_is_a_result(tmp_path: Path) -> None:
    there = scene(tmp_path)
    made = encode(there.volume, np.zeros(there.volume.shape, np.uint8))
    assert not each_slice(made, there.volume, classic_images=True).any()


def two_in_one(grid: Grid) -> list[Dataset]:
    """An enhanced object with b0 and trace in turn, slice by slice."""
    return [enhanced("MR", [grid, grid], [diffusion_group(0, "NONE"), diffusion_group(1000, "ISOTROPIC")])]


def last_volume(folder: Path, images: Iterable[Dataset]) -> Volume:
    """The volume of the highest b-value, or the only one."""
    write_images(folder / "images", images)
    return max(scan(folder / "images", Pseudonyms(bytes(32))).volumes, key=lambda volume: volume.b_value or 0)


def test_of_a_shared_object_only_the_own_frames_are_named(tmp_path: Path) -> None:
    grid = GRIDS["sagittal, anisotropic"]
    trace = last_volume(tmp_path, two_in_one(grid))
    values = blob(trace.shape)
    made = encode(trace, values)
    own = {frame.index + 1 for frame in trace.frames}
    assert len(own) == grid.slices < int(2 * grid.slices)
    named = [group.DerivationImageSequence[0].SourceImageSequence for group in made.PerFrameFunctionalGroupsSequence]
    assert {int(item.ReferencedFrameNumber) for (item,) in named} < own
    (whole,) = made.SourceImageSequence
    assert set(map(int, whole.ReferencedFrameNumber)) == own
    np.testing.assert_array_equal(each_slice(made, trace, classic_images=False), values)


def test_a_volume_of_several_objects(tmp_path: Path) -> None:
    who, grid = names(), Grid(9, 7, 4)
    above = replace(grid, origin=grid.position(4))
    volume = last_volume(tmp_path, [enhanced("MR", [grid], who=who), enhanced("MR", [above], who=who)])
    values = blob(volume.shape)
    made = encode(volume, values)
    assert len(made.SourceImageSequence) == 2
    np.testing.assert_array_equal(in_space(made, volume.affine), np.argwhere(values))


def test_a_trace_of_three_series_names_them_all(tmp_path: Path) -> None:
    who = names()
    series = [replace(who, series=names().series) for _ in range(3)]
    for one in series:
        write_images(tmp_path / "images", classic("MR", Grid(9, 7, 5), who=one))
    volumes = sorted(scan(tmp_path / "images", Pseudonyms(bytes(32))).volumes, key=lambda volume: volume.id)
    values = blob(volumes[0].shape)
    made = encode(volumes, values)
    assert {item.SeriesInstanceUID for item in made.ReferencedSeriesSequence} == {one.series for one in series}
    assert {
        len(group.DerivationImageSequence[0].SourceImageSequence) for group in made.PerFrameFunctionalGroupsSequence
    } == {3}
    np.testing.assert_array_equal(each_slice(made, volumes[0], classic_images=True), values)


def test_it_belongs_to_the_study_and_says_what_it_is(tmp_path: Path) -> None:
    images = classic("CT", StudyID="S1", StudyDate="20260102", SpecificCharacterSet="ISO_IR 192", PatientSex="O")
    there = scene(tmp_path, images)
    values = blob(there.volume.shape)
    first, second = (encode(there.volume, values) for _ in range(2))
    source = images[0]
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        assert first[keyword].value == source[keyword].value
    assert (first.StudyInstanceUID, first.FrameOfReferenceUID) == (source.StudyInstanceUID, source.FrameOfReferenceUID)
    assert first.SeriesInstanceUID not in (source.SeriesInstanceUID, second.SeriesInstanceUID)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (first.ContentLabel, first.ContentQualification) == ("RESEARCH_USE", "RESEARCH")
    assert "research use" in first.SeriesDescription
    assert "research use" in first.ContentDescription
    (segment,) = first.SegmentSequence
    (by,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (segment.SegmentAlgorithmType, by.AlgorithmName) == ("AUTOMATIC", ALGORITHM.name)
    assert "model_sha256=" + ALGORITHM.model_sha256 in by.AlgorithmParameters
    assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientBirthDate": "about 1930"},
        {"PatientSex": "unknown", "StudyDate": "2026-01-02", "StudyTime": "noon"},
        {"PatientName": None, "PatientBirthDate": None, "AccessionNumber": None},
        {"SliceThickness": None},
        {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": 7.5,
            "LossyImageCompressionMethod": "ISO_10918_1",
        },
        {
            "SpecificCharacterSet": ["ISO 2022 IR 6", "ISO 2022 IR 87"],
            "PatientName": "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce",
        },
    ],
    ids=lambda attributes: ", ".join(attributes),
)
def test_odd_headers_are_carried_over_as_they_are(tmp_path: Path, attributes: dict[str, object]) -> None:
    there = scene(tmp_path, classic("MR", Grid(9, 7, 5), **attributes))
    values = blob(there.volume.shape)
    made = encode(there.volume, values)
    for keyword, value in attributes.items():
        if keyword not in ("SliceThickness", "SpecificCharacterSet"):
            assert str(made.get(keyword) or "") == str(value or "")
    np.testing.assert_array_equal(there.read(made).values, values)


@pytest.fixture
def dciodvfy() -> str:
    """David Clunie's validator, which holds an object against its information object definition in PS3.3."""
    found = shutil.which("dciodvfy")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("dciodvfy is missing: scripts/setup --test-tools installs it")
        pytest.skip("dciodvfy is not installed (scripts/setup --test-tools installs it)")
    return found


@pytest.mark.parametrize("images", [classic("CT", GRIDS["axial"]), two_in_one(GRIDS["oblique"])], ids=["CT", "MR"])
def test_a_validator_finds_no_error(tmp_path: Path, dciodvfy: str, images: list[Dataset]) -> None:
    for image in images:
        image.PatientName, image.PatientBirthDate, image.PatientSex = "Doe^Jo", "19300102", "O"
    there = last_volume(tmp_path, images)
    path = tmp_path / "made.dcm"
    path.write_bytes(writing.encode([there], blob(there.shape, TUMOUR), TUMOUR, ALGORITHM))
    said = subprocess.run([dciodvfy, "-new", path], capture_output=True, text=True, check=False)
    assert "Segmentation" in said.stderr.splitlines()
    assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []


def refusal(there: Scene) -> str:
    with pytest.raises(Unwritable) as refused:
        encode(there.volume, blob(there.volume.shape))
    assert "--nifti" in refused.value.mend
    return refused.value.reason


def test_resampled_slices_cannot_be_referred_to(tmp_path: Path) -> None:
    grid = Grid(12, 10, 5, shear=(0.0, 0.6, 0.0))
    there = scene(tmp_path, classic("CT", grid, voxels=None), resample=frozenset({"tilt"}))
    assert there.volume.regrid
    assert "resampled" in refusal(there)


def test_without_a_frame_of_reference(tmp_path: Path) -> None:
    assert "frame of reference" in refusal(scene(tmp_path, classic("MR", FrameOfReferenceUID=None)))


def test_without_uids(tmp_path: Path) -> None:
    assert "UIDs" in refusal(scene(tmp_path, classic("MR", StudyInstanceUID=None)))


def test_another_image_lies_there_by_now(tmp_path: Path) -> None:
    there = scene(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    write_images(tmp_path / "images", classic("MR", Grid(24, 20, 6)))
    assert "headers" in refusal(there)


def test_the_source_is_gone(tmp_path: Path) -> None:
    there = scene(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(SourceMissing):
        encode(there.volume, blob(there.volume.shape))


def test_what_does_not_read_back_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = scene(tmp_path)
    reader = writing.read_segmentation
    monkeypatch.setattr(
        writing, "read_segmentation", lambda file, target: replace(reader(file, target), values=np.uint8(1) - 1)
    )
    assert "headers" in refusal(there)


@pytest.mark.parametrize(
    "series",
    [
        "ct_philips/brain_5mm",
        "mr_siemens_decubitus/t1_sag_hfs",
        "mr_siemens_xa30/t1w_enhanced",
        "deident/ge_ir_spgr_part",
    ],
)
def test_on_series_that_nobody_here_made(real_data: Path, series: str) -> None:
    volume = next(one for one in scan(real_data / series, Pseudonyms(bytes(32))).volumes if one.verdict == "accepted")
    values = np.zeros(volume.shape, np.uint8)
    i, j, k = (side // 3 for side in volume.shape)
    values[i : i + 9, j : j + 5, k : k + 2] = 1
    values[i, j, k] = 0
    made = encode(volume, values)
    each = each_slice(made, volume, classic_images=volume.frames[0].instance is not volume.frames[1].instance)
    np.testing.assert_array_equal(each, values)
    np.testing.assert_array_equal(in_space(made, volume.affine), np.argwhere(values))
