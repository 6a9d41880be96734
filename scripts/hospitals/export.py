"""DICOM files as scanners write them: classic MR images (PS3.3 A.4) or one enhanced multi-frame object (A.36)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from hospitals.fields import Affine, FloatArray
from hospitals.patients import Patient
from hospitals.scanners import Scanner

MAX_STORED = 4095
IMPLEMENTATION_UID = UID("1.2.826.0.1.3680043.8.498.20260101")


@dataclass(frozen=True)
class Volume:
    """One stack of images of a series: `pixels` [column, row, slice] in the unit of the images, never negative.

    `kind` is "b0", "trace" or "adc"; `b_value` in s/mm2, None where the image has none. `slope` turns stored values
    back into `pixels`. `affine` (4x4, mm, LPS) maps (column, row, slice) to patient coordinates.
    """

    kind: str
    pixels: FloatArray
    affine: Affine
    b_value: int | None
    slope: float = 1.0

    def stored(self) -> np.ndarray:
        """uint16 [slice, row, column]: the order in which DICOM stores pixels."""
        values = np.clip(np.rint(self.pixels / self.slope), 0, MAX_STORED).astype(np.uint16)
        return np.ascontiguousarray(values.transpose(2, 1, 0))


IMAGE_TYPES = {
    "b0": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"],
    "trace": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"],
    "adc": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"],
    "localizer": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
}


def new_file(sop_class: UID, sop_instance: UID) -> FileDataset:
    """An empty DICOM file with its meta information, to be filled and saved with `save_as`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = sop_instance
    return dataset


def set_patient_and_study(dataset: Dataset, patient: Patient) -> None:
    """Patient, General Study and Patient Study modules."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = f"{patient.family_name}^{patient.given_name}"
    dataset.PatientID = patient.patient_id
    dataset.PatientBirthDate = patient.birth_date
    dataset.PatientSex = patient.sex
    dataset.PatientAge = f"{patient.age_years:03d}Y"
    dataset.PatientWeight = "74"
    dataset.StudyInstanceUID = patient.uid("study")
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = patient.study_date
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = patient.study_time
    dataset.AccessionNumber = patient.accession
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = patient.accession[-6:]
    dataset.StudyDescription = "MR HEAD STROKE"


def set_series_and_equipment(dataset: Dataset, scanner: Scanner, series_uid: str, number: int, name: str) -> None:
    """General Series, General Equipment and MR sequence attributes."""
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = series_uid
    dataset.SeriesNumber = number
    dataset.SeriesDescription = name
    dataset.ProtocolName = name
    dataset.BodyPartExamined = "HEAD"
    dataset.PatientPosition = "HFS"
    dataset.Manufacturer = scanner.manufacturer
    dataset.ManufacturerModelName = scanner.model
    dataset.SoftwareVersions = scanner.software
    dataset.InstitutionName = "Invented General Hospital"
    dataset.StationName = f"MR-{scanner.name.upper()}"
    dataset.DeviceSerialNumber = f"{abs(int(scanner.gain * 7919)):07d}"
    dataset.MagneticFieldStrength = scanner.field_strength_t
    dataset.ImagingFrequency = round(42.577 * scanner.field_strength_t, 3)


def set_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    """Image Pixel module for 12-bit grey values; `stored` is uint16 [(frame,) row, column]."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = stored.astype("<u2").tobytes()


def decimal(values: ArrayLike) -> list[str]:
    """Numbers as DICOM decimal strings: at most 16 characters, as many digits as fit."""
    return [f"{0.0 if abs(value) < 1e-9 else value:.9g}"[:16] for value in np.ravel(values)]


def sizes_and_directions(affine: Affine) -> tuple[np.ndarray, np.ndarray]:
    """Voxel sizes in mm (column step, row step, slice step), and unit vectors along them as columns of a 3x3 array."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return sizes, affine[:3, :3] / sizes


def write_classic_series(
    volumes: list[Volume],
    patient: Patient,
    scanner: Scanner,
    series: tuple[str, int, str],
    paths: Iterator[Path],
    top_first: bool = False,
) -> None:
    """Writes one file per slice: volume after volume, slices from below upward (or from the top).

    `series` is (UID, number, description); `paths` yields the name of each next file.
    """
    dataset = new_file(MRImageStorage, UID(""))
    set_patient_and_study(dataset, patient)
    set_series_and_equipment(dataset, scanner, *series)
    _set_sequence(dataset, scanner)
    dataset.AcquisitionNumber = 1
    instance = 0
    for volume in volumes:
        stored = volume.stored()
        dataset.ImageType = IMAGE_TYPES[volume.kind]
        _set_b_value(dataset, volume, scanner)
        _set_display(dataset, volume)
        order = range(len(stored))
        for slice_index in reversed(order) if top_first else order:
            instance += 1
            sop_instance = patient.uid(series[0], str(instance))
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = sop_instance
            dataset.InstanceNumber = instance
            _set_plane(dataset, volume, slice_index, scanner, patient.uid("frame of reference"))
            set_pixels(dataset, stored[slice_index])
            dataset.save_as(next(paths), enforce_file_format=True)


def _set_sequence(dataset: Dataset, scanner: Scanner) -> None:
    """MR Image module: a spin-echo echo-planar sequence."""
    dataset.ScanningSequence = ["EP", "SE"]
    dataset.SequenceVariant = ["SK", "SP"]
    dataset.ScanOptions = "FS"
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime = decimal(scanner.repetition_time_ms)[0]
    dataset.EchoTime = decimal(scanner.echo_time_ms)[0]
    dataset.EchoTrainLength = scanner.matrix // 2
    dataset.FlipAngle = "90"
    dataset.NumberOfAverages = "1"
    dataset.ImagedNucleus = "1H"


def _set_plane(dataset: Dataset, volume: Volume, slice_index: int, scanner: Scanner, frame_of_reference: str) -> None:
    """Frame of Reference and Image Plane modules."""
    sizes, directions = sizes_and_directions(volume.affine)
    position = volume.affine[:3, :3] @ (0, 0, slice_index) + volume.affine[:3, 3]
    dataset.FrameOfReferenceUID = frame_of_reference
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = decimal(position)
    dataset.ImageOrientationPatient = decimal(directions[:, :2].T)
    dataset.PixelSpacing = decimal((sizes[1], sizes[0]))
    dataset.SliceThickness = decimal(scanner.thickness_mm)[0]
    dataset.SpacingBetweenSlices = decimal(sizes[2])[0]
    dataset.SliceLocation = decimal(position @ directions[:, 2])[0]


def _set_display(dataset: Dataset, volume: Volume) -> None:
    high = float(np.percentile(volume.pixels, 99.5))
    dataset.WindowCenter, dataset.WindowWidth = decimal(high / 2)[0], decimal(max(high, 1.0))[0]
    if volume.slope != 1.0:
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", decimal(volume.slope)[0], "US"


def _set_b_value(dataset: Dataset, volume: Volume, scanner: Scanner) -> None:
    """The b-value where this vendor puts it: the vendors' conformance statements name the private elements."""
    if volume.b_value is None:
        return
    b_value, is_b0 = volume.b_value, volume.b_value == 0
    if scanner.b_value_tags == "siemens-private":
        dataset.SequenceName = "*ep_b0" if is_b0 else f"*ep_b{b_value}t"
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", b_value)
        block.add_new(0x0D, "CS", "NONE" if is_b0 else "ISOTROPIC")
    elif scanner.b_value_tags == "ge-private":
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x30, "SS", 14 if is_b0 else 15)
        # Since software DV24, GE adds 10^9 to the b-value of what was not acquired at a single direction.
        block.add_new(0x39, "IS", [b_value if is_b0 else 1_000_000_000 + b_value, 8, 0, 0])
    else:
        dataset.DiffusionBValue = float(b_value)
        dataset.DiffusionDirectionality = "NONE" if is_b0 else "ISOTROPIC"


def write_enhanced(
    volumes: list[Volume], patient: Patient, scanner: Scanner, series: tuple[str, int, str], path: Path
) -> None:
    """Writes all volumes as the frames of one Enhanced MR object, b-values in the frames' functional groups."""
    dataset = new_file(EnhancedMRImageStorage, patient.uid(series[0], "1"))
    set_patient_and_study(dataset, patient)
    set_series_and_equipment(dataset, scanner, *series)
    dataset.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "MIXED"]
    dataset.PixelPresentation, dataset.VolumetricProperties = "MONOCHROME", "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ComplexImageComponent, dataset.AcquisitionContrast = "MAGNITUDE", "DIFFUSION"
    dataset.InstanceNumber = 1
    dataset.AcquisitionDateTime = patient.study_date + patient.study_time
    dataset.AcquisitionNumber, dataset.AcquisitionDuration = 1, 96.0
    dataset.PulseSequenceName, dataset.EchoPulseSequence = "SE_EPI_DWI", "SPIN"
    dataset.ResonantNucleus, dataset.MRAcquisitionType = "1H", "2D"
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    dataset.PresentationLUTShape, dataset.ContentQualification = "IDENTITY", "PRODUCT"
    dataset.FrameOfReferenceUID = patient.uid("frame of reference")
    dataset.PositionReferenceIndicator = ""
    dimensions = patient.uid(series[0], "dimensions")
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=dimensions)]
    dataset.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=dimensions, DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
        for pointer, group in ((0x00209056, 0x00209111), (0x00189087, 0x00189117), (0x00209057, 0x00209111))
    ]
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(volumes[0], scanner)]
    stored = np.concatenate([volume.stored() for volume in volumes])
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame_groups(volume, number, slice_index, patient)
        for number, volume in enumerate(volumes, start=1)
        for slice_index in range(volume.pixels.shape[2])
    ]
    dataset.NumberOfFrames = len(stored)
    set_pixels(dataset, stored)
    dataset.save_as(path, enforce_file_format=True)


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _shared_groups(volume: Volume, scanner: Scanner) -> Dataset:
    sizes, directions = sizes_and_directions(volume.affine)
    return _item(
        PixelMeasuresSequence=[
            _item(
                PixelSpacing=decimal((sizes[1], sizes[0])),
                SliceThickness=decimal(scanner.thickness_mm)[0],
                SpacingBetweenSlices=decimal(sizes[2])[0],
            )
        ],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=decimal(directions[:, :2].T))],
        PixelValueTransformationSequence=[
            _item(RescaleIntercept="0", RescaleSlope=decimal(volume.slope)[0], RescaleType="US")
        ],
        MRTimingAndRelatedParametersSequence=[
            _item(RepetitionTime=decimal(scanner.repetition_time_ms)[0], FlipAngle="90")
        ],
        MREchoSequence=[_item(EffectiveEchoTime=scanner.echo_time_ms)],
        FrameAnatomySequence=[_item(FrameLaterality="U")],
    )


def _frame_groups(volume: Volume, number: int, slice_index: int, patient: Patient) -> Dataset:
    position = volume.affine[:3, :3] @ (0, 0, slice_index) + volume.affine[:3, 3]
    is_b0 = volume.b_value == 0
    content = _item(
        StackID="1",
        InStackPositionNumber=slice_index + 1,
        DimensionIndexValues=[1, number, slice_index + 1],
        FrameAcquisitionDateTime=patient.study_date + patient.study_time,
        FrameAcquisitionNumber=1,
    )
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=decimal(position))],
        MRImageFrameTypeSequence=[_item(FrameType=IMAGE_TYPES[volume.kind], ComplexImageComponent="MAGNITUDE")],
        MRDiffusionSequence=[
            _item(
                DiffusionBValue=float(volume.b_value or 0),
                DiffusionDirectionality="NONE" if is_b0 else "ISOTROPIC",
            )
        ],
    )
