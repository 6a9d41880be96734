"""What else lies in a real export, and must be refused: localizers, screenshots, broken files, files of other kinds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pydicom.uid import SecondaryCaptureImageStorage

from hospitals.export import Volume, new_file, set_patient_and_study, set_series_and_equipment, write_classic_series
from hospitals.patients import Patient
from hospitals.scanners import Scanner


def write_localizer(b0: Volume, patient: Patient, scanner: Scanner, paths: Iterator[Path]) -> None:
    """Three crossing images in one series, cut from the b = 0 volume."""
    middle = [n // 2 for n in b0.pixels.shape]
    planes = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # axial, coronal, sagittal: (along rows, along columns, across)
    cuts = []
    for along_rows, along_columns, across in planes:
        axes = [along_rows, along_columns, across]
        pixels = (
            b0.pixels.transpose(axes)[:, ::-1, middle[across], None]
            if 2 in axes[:2]
            else b0.pixels[..., middle[2], None]
        )
        affine = b0.affine.copy()
        affine[:3, :3] = b0.affine[:3, axes]
        start = np.zeros(3)
        start[across] = middle[across]
        if along_columns == 2:  # the head upright: rows run downward
            affine[:3, 1] *= -1
            start[2] = b0.pixels.shape[2] - 1
        affine[:3, 3] += b0.affine[:3, :3] @ start
        cuts.append(Volume("localizer", pixels, affine, None, b0.slope))
    write_classic_series(cuts, patient, scanner, (patient.uid("localizer"), 1, "localizer 3 plane"), paths)


def write_screenshot(patient: Patient, scanner: Scanner, path: Path) -> None:
    """A colour secondary capture with the patient's name burned into the picture, as workstations make them."""
    picture = Image.new("RGB", (320, 200), "black")
    lines = (f"{patient.family_name}, {patient.given_name}", patient.patient_id, patient.birth_date, "DWI summary")
    ImageDraw.Draw(picture).multiline_text((12, 12), "\n".join(lines), fill=(90, 220, 120))
    dataset = new_file(SecondaryCaptureImageStorage, patient.uid("screenshot", "1"))
    set_patient_and_study(dataset, patient)
    set_series_and_equipment(dataset, scanner, patient.uid("screenshot"), 99, "Screen Save")
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    dataset.InstanceNumber = 1
    dataset.BurnedInAnnotation = "YES"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Columns, dataset.Rows = picture.size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = picture.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_truncated(b0: Volume, patient: Patient, scanner: Scanner, path: Path) -> None:
    """A single image whose copying stopped after 60% of its bytes."""
    one = Volume("b0", b0.pixels[..., :1], b0.affine, 0, b0.slope)
    write_classic_series([one], patient, scanner, (patient.uid("truncated"), 50, "copy interrupted"), iter([path]))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])


def write_text_files(folder: Path) -> None:
    """What burning programs put beside the images."""
    (folder / "AUTORUN.INF").write_text("[autorun]\r\nopen=VIEWER.EXE\r\n")
    (folder / "DICOMDIR.TXT").write_text("This disc holds images in DICOM format. See the viewer's manual.\r\n")
