"""Makes the exports of hospitals that do not exist: real DICOM, real anatomy, real lesion shapes, no real patient.

    python scripts/make_hospitals.py OUT --sites 3 --patients 12 --seed 7 [--lesions DIR]

writes for each hospital `OUT/NAME/export` (the folder that a radiology department would hand over, rubbish included),
`OUT/NAME/labels` (the expert's masks, `SERIESUID_mask.nii.gz`, on the grid of the DICOM series) and
`OUT/hospitals.json` (who is in it, for whoever checks that nothing of it leaks). The same arguments give the same
files, byte by byte.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from hospitals.anatomy import load_head
from hospitals.clutter import write_localizer, write_screenshot, write_text_files, write_truncated
from hospitals.export import Volume, write_classic_series, write_enhanced
from hospitals.imaging import LPS_TO_RAS, DiffusionImages, acquire
from hospitals.lesions import lesion_fractions
from hospitals.patients import Patient, invent_patient
from hospitals.scanners import SCANNERS, Scanner

HOSPITAL_NAMES = ("alder", "birch", "cedar", "dogwood", "elder", "fir", "gorse", "hazel", "ivy", "juniper")
SCREENSHOT_EVERY = 4
"""Every how many patients somebody saved a screenshot."""


@dataclass(frozen=True)
class PatientRecord:
    """What a check needs to know of a patient: identifiers that must not leak, and where the lesion is described."""

    name: str
    patient_id: str
    birth_date: str
    accession: str
    study_uid: str
    trace_series_uid: str
    mask: str
    lesion_ml: float


@dataclass(frozen=True)
class Hospital:
    """One hospital's export: `source` is what `fedsite prepare-data SOURCE --labels LABELS` takes."""

    name: str
    scanner: str
    source: str
    labels: str
    patients: tuple[PatientRecord, ...]


def make_hospitals(
    out: Path,
    sites: int = 3,
    patients: int = 12,
    seed: int = 0,
    lesions: Path | None = None,
    coarser: float = 1.0,
    lesion_ml: tuple[float, float] = (4.0, 150.0),
    workers: int | None = None,
) -> tuple[Hospital, ...]:
    """Makes `sites` hospitals of `patients` each, in `workers` processes (default: the machine's cores).

    Hospital i has scanner i of SCANNERS (from the sixth on they repeat with other patients): ask for one more site
    than you train on to get an unseen scanner. `coarser` = 2 doubles the voxel size on each axis. Lesion shapes are
    shared out: no mask of `lesions` is at two hospitals. Raises FileNotFoundError where `lesions` holds no mask.
    """
    make = partial(
        _make_one, out, patients=patients, seed=seed, lesions=lesions, sites=sites, coarser=coarser, lesion_ml=lesion_ml
    )
    workers = min(sites, workers or os.cpu_count() or 1)
    if workers == 1:
        made = tuple(map(make, range(sites)))
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            made = tuple(pool.map(make, range(sites)))
    (out / "hospitals.json").write_text(json.dumps([asdict(hospital) for hospital in made], indent=1) + "\n")
    return made


def _make_one(
    out: Path,
    index: int,
    *,
    patients: int,
    seed: int,
    lesions: Path | None,
    sites: int,
    coarser: float,
    lesion_ml: tuple[float, float],
) -> Hospital:
    name = HOSPITAL_NAMES[index] if index < len(HOSPITAL_NAMES) else f"hospital-{index + 1}"
    scanner = SCANNERS[index % len(SCANNERS)].coarser(coarser)
    return make_hospital(out / name, scanner, patients, seed, lesions, lesion_ml, share=(index, sites))


def make_hospital(
    folder: Path,
    scanner: Scanner,
    patients: int,
    seed: int,
    lesions: Path | None = None,
    lesion_ml: tuple[float, float] = (4.0, 150.0),
    share: tuple[int, int] = (0, 1),
) -> Hospital:
    """Makes one hospital in `folder`; its name is the folder's. Two names never get the same patients.

    `share` = (index, of) picks this hospital's part of the masks in `lesions`.
    """
    source, labels = folder / "export", folder / "labels"
    source.mkdir(parents=True, exist_ok=True)
    labels.mkdir(exist_ok=True)
    shapes = lesion_fractions(lesions, seed, share, lesion_ml)
    records = []
    for number in range(patients):
        rng = np.random.default_rng([seed, number, *folder.name.encode()])
        patient = invent_patient(folder.name, number, seed, rng)
        images = acquire(load_head(), next(shapes), scanner, rng)
        paths = _file_names(source, scanner, patient, number)
        series_uid = _write_study(images, patient, scanner, rng, paths)
        if number % SCREENSHOT_EVERY == 0:
            write_screenshot(patient, scanner, next(paths))
        if number == 0:
            write_truncated(_volumes(images, scanner, 1.0)[0], patient, scanner, next(paths))
        mask = write_mask(labels / f"{series_uid}_mask.nii.gz", images, scanner)
        records.append(_record(patient, series_uid, mask, images))
    write_text_files(source)
    return Hospital(folder.name, scanner.name, str(source), str(labels), tuple(records))


def _write_study(
    images: DiffusionImages, patient: Patient, scanner: Scanner, rng: np.random.Generator, paths: Iterator[Path]
) -> str:
    """Writes localizer and diffusion as this scanner exports them. Gives the UID of the series with the trace."""
    b0, trace, adc = _volumes(images, scanner, gain=scanner.gain * rng.uniform(0.85, 1.15))
    write_localizer(b0, patient, scanner, paths)
    top_first = scanner.b_value_tags == "ge-private"
    uid = patient.uid("diffusion")
    if scanner.export == "multi-frame":
        write_enhanced([b0, trace], patient, scanner, (uid, 3, "DWI b0 b1000"), next(paths))
    elif scanner.export == "one-series":
        write_classic_series([b0, trace], patient, scanner, (uid, 3, "ep2d_diff_tra_TRACEW"), paths, top_first)
    else:
        uid = patient.uid("trace")
        write_classic_series([b0], patient, scanner, (patient.uid("b0"), 301, "DWI b0"), paths)
        write_classic_series([trace], patient, scanner, (uid, 302, "sDWI iso"), paths)
    if scanner.adc_series:
        write_classic_series([adc], patient, scanner, (patient.uid("adc"), 303, "dADC"), paths)
    return uid


def _volumes(images: DiffusionImages, scanner: Scanner, gain: float) -> tuple[Volume, Volume, Volume]:
    """b0, trace and ADC (10^-6 mm2/s, zero in air) as they are stored."""
    ratio = np.log(np.maximum(images.b0, 1e-6) / np.maximum(images.trace, 1e-6)) / scanner.b_value
    adc = np.where(images.b0 > 0.2, np.clip(ratio * 1e6, 0, 4000), 0).astype(np.float32)
    return (
        Volume("b0", images.b0 * np.float32(gain), images.affine, 0, scanner.slope),
        Volume("trace", images.trace * np.float32(gain), images.affine, scanner.b_value, scanner.slope),
        Volume("adc", adc, images.affine, None),
    )


def write_mask(path: Path, images: DiffusionImages, scanner: Scanner) -> Path:
    """The expert's mask as NIfTI on the grid of the series: uint8, RAS affine in mm."""
    mask, affine = images.mask, LPS_TO_RAS @ images.affine
    if scanner.masks_flipped:
        turn = np.diag([1.0, -1.0, 1.0, 1.0])
        turn[1, 3] = mask.shape[1] - 1
        mask, affine = mask[:, ::-1], affine @ turn
    image = nib.Nifti1Image(np.ascontiguousarray(mask), affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    nib.save(image, path)
    return path


def _file_names(source: Path, scanner: Scanner, patient: Patient, number: int) -> Iterator[Path]:
    """Endless file names of a patient in the manner of the vendor's export; makes the folders."""
    if scanner.manufacturer == "SIEMENS":
        folder, pattern = source / f"{patient.family_name}_{patient.given_name}_{patient.study_date}", "{:08d}.IMA"
    elif scanner.manufacturer.startswith("Philips"):
        folder, pattern = source / "DICOM", f"IM_{number:03d}{{:04d}}"
    elif scanner.manufacturer.startswith("GE"):
        folder, pattern = source / f"PA{number:06d}" / "ST000000" / "SE000001", "MR{:06d}"
    else:
        folder, pattern = source / patient.accession, "{}.dcm"
    folder.mkdir(parents=True, exist_ok=True)
    instance = 0
    while True:
        instance += 1
        yield folder / pattern.format(instance)


def _record(patient: Patient, series_uid: str, mask: Path, images: DiffusionImages) -> PatientRecord:
    voxel_ml = abs(float(np.linalg.det(images.affine[:3, :3]))) / 1000
    return PatientRecord(
        name=f"{patient.family_name}^{patient.given_name}",
        patient_id=patient.patient_id,
        birth_date=patient.birth_date,
        accession=patient.accession,
        study_uid=patient.uid("study"),
        trace_series_uid=series_uid,
        mask=str(mask),
        lesion_ml=round(int(images.mask.sum()) * voxel_ml, 2),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes the DICOM exports of hospitals that do not exist.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--patients", type=int, default=12, help="per hospital")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lesions", type=Path, help="folder of 1 mm lesion masks in MNI space (*.nii.gz)")
    parser.add_argument("--coarser", type=float, default=1.0, help="factor on the voxel size")
    parser.add_argument("--workers", type=int, help="processes (default: the machine's cores)")
    options = parser.parse_args()
    for hospital in make_hospitals(**vars(options)):
        volumes = ", ".join(f"{patient.lesion_ml:.0f}" for patient in hospital.patients)
        print(f"{hospital.name} ({hospital.scanner}): {len(hospital.patients)} patients, lesions of {volumes} ml")


if __name__ == "__main__":
    main()
