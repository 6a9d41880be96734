"""The data maker: its DICOM is valid, its geometry agrees with its masks, its lesions look like strokes."""

import hashlib
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hospitals.anatomy import load_head
from hospitals.scanners import SCANNERS
from make_hospitals import Hospital, make_hospital, make_hospitals

PATIENTS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hospital, ...]:
    out = tmp_path_factory.mktemp("hospitals")
    return make_hospitals(out, sites=len(SCANNERS), patients=PATIENTS, seed=3, coarser=2.0, workers=1)


def files_of(folder: str | Path) -> dict[str, str]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def images_of(hospital: Hospital) -> dict[str, list[pydicom.Dataset]]:
    """Every readable DICOM image of an export, by series."""
    series = defaultdict(list)
    for path in Path(hospital.source).rglob("*"):
        try:
            dataset = pydicom.dcmread(path)
            _ = dataset.pixel_array
        except (OSError, ValueError, pydicom.errors.InvalidDicomError):
            continue
        series[dataset.SeriesInstanceUID].append(dataset)
    return series


def b_value(dataset: pydicom.Dataset) -> float | None:
    """Written here once more from the vendors' conformance statements, so that it can disagree with the maker."""
    if "DiffusionBValue" in dataset:
        return float(dataset.DiffusionBValue)
    if (0x0019, 0x100C) in dataset:
        assert dataset[0x0019, 0x0010].value == "SIEMENS MR HEADER"
        return float(dataset[0x0019, 0x100C].value)
    if (0x0043, 0x1039) in dataset:
        assert dataset[0x0043, 0x0010].value == "GEMS_PARM_01"
        return float(int(dataset[0x0043, 0x1039].value[0]) % 1_000_000_000)
    return None


def volume(frames: list[tuple[np.ndarray, np.ndarray, np.ndarray]], spacing: list[float]) -> nib.Nifti1Image:
    """Frames of (pixels [row, column], position, orientation) as a NIfTI image in RAS."""
    along_rows, along_columns = frames[0][2].reshape(2, 3)
    normal = np.cross(along_rows, along_columns)
    frames = sorted(frames, key=lambda frame: float(frame[1] @ normal))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = along_rows * spacing[1], along_columns * spacing[0]
    lps[:3, 2] = (frames[-1][1] - frames[0][1]) / (len(frames) - 1)
    lps[:3, 3] = frames[0][1]
    data = np.stack([frame[0].T for frame in frames], axis=-1).astype(np.float32)
    return nib.Nifti1Image(data, np.diag([-1, -1, 1, 1]) @ lps)


def diffusion_volumes(images: list[pydicom.Dataset]) -> dict[float, nib.Nifti1Image]:
    """The volumes of one series by b-value."""
    first = images[0]
    by_b_value = defaultdict(list)
    if "NumberOfFrames" in first:
        shared = first.SharedFunctionalGroupsSequence[0]
        orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        spacing = [float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing]
        for groups, pixels in zip(first.PerFrameFunctionalGroupsSequence, first.pixel_array, strict=True):
            position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
            by_b_value[b_value(groups.MRDiffusionSequence[0])].append((pixels, position, orientation))
    else:
        spacing = [float(x) for x in first.PixelSpacing]
        for image in images:
            geometry = (np.array(image.ImagePositionPatient, float), np.array(image.ImageOrientationPatient, float))
            by_b_value[b_value(image)].append((image.pixel_array, *geometry))
    return {b: volume(frames, spacing) for b, frames in by_b_value.items()}


@pytest.mark.parametrize("index", range(len(SCANNERS)), ids=[scanner.name for scanner in SCANNERS])
def test_masks_lie_on_the_lesions(made: tuple[Hospital, ...], index: int) -> None:
    hospital, scanner = made[index], SCANNERS[index]
    series = images_of(hospital)
    assert len(hospital.patients) == PATIENTS
    for patient in hospital.patients:
        volumes = diffusion_volumes(series[patient.trace_series_uid])
        trace = nib.as_closest_canonical(volumes[scanner.b_value])
        mask = nib.as_closest_canonical(nib.load(patient.mask))
        assert mask.shape == trace.shape
        np.testing.assert_allclose(mask.affine, trace.affine, atol=1e-3)
        inside = np.asanyarray(mask.dataobj) > 0
        values = np.asanyarray(trace.dataobj)
        brain = values > np.percentile(values, 80)
        assert 1.15 < values[inside].mean() / np.median(values[brain & ~inside]) < 3.5
        assert np.mean(values == 0) < 0.02, "air is noise, not zeros: a whole head, not a skull-stripped one"


def test_export_styles_differ(made: tuple[Hospital, ...]) -> None:
    siemens, philips, ge, canon, _ = made
    b_values = [
        set(diffusion_volumes(images_of(hospital)[hospital.patients[0].trace_series_uid]))
        for hospital in (siemens, philips, ge, canon)
    ]
    assert b_values == [{0.0, 1000.0}, {1000.0}, {0.0, 1000.0}, {0.0, 1000.0}]
    assert len({hospital.scanner for hospital in made}) == len(SCANNERS)


def test_fluid_is_bright_at_b0_and_dark_on_the_trace(made: tuple[Hospital, ...]) -> None:
    volumes = diffusion_volumes(images_of(made[0])[made[0].patients[0].trace_series_uid])
    b0, trace = (np.asanyarray(volumes[b].dataobj) for b in (0.0, 1000.0))
    fluid = b0 > np.percentile(b0, 99.5)
    brain = trace > np.percentile(trace, 80)
    adc = -np.log(np.maximum(trace, 1) / np.maximum(b0, 1)) / 1000
    assert np.median(adc[fluid]) > 2 * np.median(adc[brain])
    assert 0.6e-3 < np.median(adc[brain]) < 1.1e-3, "healthy tissue's ADC in mm2/s"


def test_every_instance_is_unique_and_complete(made: tuple[Hospital, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    seen = set()
    for hospital in made:
        for images in images_of(hospital).values():
            for image in images:
                assert image.SOPInstanceUID not in seen
                seen.add(image.SOPInstanceUID)
                assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
                assert all((image.PatientName, image.PatientID, image.PatientBirthDate, image.StudyInstanceUID))
                assert list(image.iterall()), "every element is read, so every value is checked"


def test_there_is_rubbish_in_every_export(made: tuple[Hospital, ...]) -> None:
    for hospital in made:
        kinds = {images[0].SeriesDescription for images in images_of(hospital).values()}
        assert {"localizer 3 plane", "Screen Save"} <= kinds
        broken = [path for path in Path(hospital.source).rglob("*") if path.is_file() and not readable(path)]
        assert len(broken) == 3, "a truncated image and two texts"


def readable(path: Path) -> bool:
    try:
        _ = pydicom.dcmread(path).pixel_array
    except (ValueError, pydicom.errors.InvalidDicomError):
        return False
    return True


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    scanner = SCANNERS[0].coarser(4.0)
    for run, seed in (("one", 5), ("two", 5), ("three", 6)):
        make_hospital(tmp_path / run / "alder", scanner, patients=1, seed=seed)
    one, two, three = (files_of(tmp_path / run) for run in ("one", "two", "three"))
    assert one == two
    assert set(one.values()) & set(three.values()) == {
        one["alder/export/AUTORUN.INF"],
        one["alder/export/DICOMDIR.TXT"],
    }


def test_hospitals_share_out_the_lesion_masks(tmp_path: Path, made: tuple[Hospital, ...]) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    shapes = [np.zeros((40, 40, 40), np.uint8) for _ in range(2)]
    shapes[0][:25, :25, :25] = 1  # 15.6 ml
    shapes[1][:30, :30, :30] = 1  # 27 ml
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (45, -30, 5)
    for number, shape in enumerate(shapes):
        nib.save(nib.Nifti1Image(shape, affine), folder / f"{number}_lesion.nii.gz")
    hospitals = make_hospitals(tmp_path / "out", 2, 2, seed=1, lesions=folder, coarser=2.0, workers=1)
    volumes = [np.mean([patient.lesion_ml for patient in hospital.patients]) for hospital in hospitals]
    assert max(volumes) > 1.3 * min(volumes), "each hospital keeps to its own mask"
    with pytest.raises(FileNotFoundError, match="no lesion masks"):
        make_hospital(tmp_path / "none", SCANNERS[0], 1, 0, lesions=tmp_path / "out" / "alder")


def test_tissue_fractions_are_fractions() -> None:
    head = load_head()
    total = head.fluid + head.grey + head.white + head.bone + head.soft + head.eyes
    assert float(total.max()) < 1.01
    assert min(float(part.min()) for part in (head.fluid, head.grey, head.white, head.bone, head.soft)) >= 0
    brain_ml = float(head.brain.sum()) * 8 / 1000
    assert 1100 < brain_ml < 1800, "the MNI152 brain is larger than most"
