"""DICOM series made for tests: any grid, classic or enhanced, in the manner of the vendors, and easy to spoil."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    MRImageStorage,
    generate_uid,
)
from support import jpeg_encoders

CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
ENHANCED = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))

# What pydicom cannot write.
_JPEG = {
    JPEGBaseline8Bit: jpeg_encoders.baseline,
    JPEGLossless: partial(jpeg_encoders.lossless, selection=2),
    JPEGLosslessSV1: jpeg_encoders.lossless,
}


@dataclass(frozen=True)
class Grid:
    """Where voxels lie, in DICOM's terms (LPS, mm): row and column direction, spacing, step along the normal."""

    columns: int = 8
    rows: int = 6
    slices: int = 5
    row: Sequence[float] = AXIAL[0]
    column: Sequence[float] = AXIAL[1]
    between_rows: float = 0.8
    between_columns: float = 0.5
    step: float = 3.0
    origin: Sequence[float] = (-12.5, 7.25, 40.0)
    shear: Sequence[float] = (0.0, 0.0, 0.0)
    """Added to the step of every slice: a gantry tilt."""

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.row, self.column)

    @property
    def affine(self) -> np.ndarray:
        """Voxel (column, row, slice) to RAS, mm."""
        matrix = np.eye(4)
        matrix[:3, 0] = np.array(self.row) * self.between_columns
        matrix[:3, 1] = np.array(self.column) * self.between_rows
        matrix[:3, 2] = self.normal * self.step + np.array(self.shear)
        matrix[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix

    def position(self, index: float) -> list[float]:
        """ImagePositionPatient of a slice."""
        return list(np.array(self.origin) + index * (self.normal * self.step + np.array(self.shear)))

    def voxels(self, seed: int = 1) -> np.ndarray:
        """Stored values [slice, row, column], uint16 below 4096."""
        return np.random.default_rng(seed).integers(0, 4096, (self.slices, self.rows, self.columns), np.uint16)


@dataclass(frozen=True)
class Names:
    """Who a series belongs to."""

    series: str
    study: str
    frame_of_reference: str
    patient: str = "PAT-4711"


def names() -> Names:
    return Names(generate_uid(), generate_uid(), generate_uid())


def classic(
    modality: str = "MR",
    grid: Grid | None = None,
    voxels: np.ndarray | None = None,
    who: Names | None = None,
    first_number: int = 1,
    **attributes: Any,
) -> list[Dataset]:
    """A series of single-frame images, one a slice; `attributes` are set on every image."""
    grid = grid or Grid()
    voxels = grid.voxels() if voxels is None else voxels
    who = who or names()
    series = []
    for index, plane in enumerate(voxels):
        image = _common(CLASSES[modality], modality, who)
        image.InstanceNumber = first_number + index
        image.ImagePositionPatient = decimals(grid.position(index))
        image.ImageOrientationPatient = decimals([*grid.row, *grid.column])
        image.PixelSpacing = decimals([grid.between_rows, grid.between_columns])
        image.SliceThickness = decimals([grid.step])[0]
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
        if modality == "CT":
            image.RescaleSlope, image.RescaleIntercept = 1, -1024
        set_pixels(image, plane)
        change(image, attributes)
        series.append(image)
    return series


def enhanced(
    modality: str = "MR",
    grids: Sequence[Grid] | None = None,
    groups: Sequence[Mapping[str, Mapping[str, Any]]] | None = None,
    voxels: np.ndarray | None = None,
    who: Names | None = None,
    **attributes: Any,
) -> Dataset:
    """One multi-frame object holding a volume for each grid; `groups` gives more functional groups for each volume.

    Frames are interleaved (slice by slice, volume by volume), as scanners may store them.
    """
    grids = grids or [Grid()]
    groups = groups or [{} for _ in grids]
    image = _common(ENHANCED[modality], modality, who or names())
    image.InstanceNumber = 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    frames = [
        (grid, index, group) for index in range(grids[0].slices) for grid, group in zip(grids, groups, strict=True)
    ]
    image.NumberOfFrames = len(frames)
    first = grids[0]
    image.SharedFunctionalGroupsSequence = DicomSequence(
        [
            functional_groups(
                {
                    "PixelMeasuresSequence": {
                        "PixelSpacing": decimals([first.between_rows, first.between_columns]),
                        "SliceThickness": decimals([first.step])[0],
                    },
                    "PlaneOrientationSequence": {"ImageOrientationPatient": decimals([*first.row, *first.column])},
                    "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0},
                }
            )
        ]
    )
    image.PerFrameFunctionalGroupsSequence = DicomSequence(
        [
            functional_groups(
                {"PlanePositionSequence": {"ImagePositionPatient": decimals(grid.position(index))}, **group}
            )
            for grid, index, group in frames
        ]
    )
    if voxels is None:
        voxels = np.stack([grid.voxels(seed) for seed, grid in enumerate(grids)], axis=1)
    set_pixels(image, voxels.reshape(-1, first.rows, first.columns))
    change(image, attributes)
    return image


def functional_groups(groups: Mapping[str, Mapping[str, Any]]) -> Dataset:
    """One item of a functional groups sequence."""
    item = Dataset()
    for keyword, values in groups.items():
        macro = Dataset()
        change(macro, values)
        setattr(item, keyword, DicomSequence([macro]))
    return item


def diffusion_group(b_value: float, directionality: str, direction: Sequence[float] | None = None) -> dict[str, Any]:
    """The MR Diffusion macro of a frame."""
    values: dict[str, Any] = {"DiffusionBValue": float(b_value), "DiffusionDirectionality": directionality}
    if direction is not None:
        gradient = Dataset()
        gradient.DiffusionGradientOrientation = [float(part) for part in direction]
        values["DiffusionGradientDirectionSequence"] = DicomSequence([gradient])
    return {"MRDiffusionSequence": values}


def head(grid: Grid, seed: int = 1) -> np.ndarray:
    """Stored values [slice, row, column] of a CT (uint16, intercept -1024): air, a skull, brain, their noise."""
    across = np.hypot(*np.meshgrid(np.linspace(-1.2, 1.2, grid.columns), np.linspace(-1.2, 1.2, grid.rows)))
    in_brain, in_bone = across < 0.85, (across >= 0.85) & (across < 1)
    hounsfield = np.select([in_brain, in_bone], [35.0, 800.0], -1000.0)
    spread = np.where(in_bone, 300.0, 8.0)  # spongy and cortical bone; elsewhere noise alone
    random = np.random.default_rng(seed).normal(0, 1, (grid.slices, *across.shape))
    return np.rint(np.clip(hounsfield + spread * random + 1024, 0, 4095)).astype(np.uint16)


def real_world_values(slope: float, intercept: float) -> DicomSequence:
    """A linear map of real-world values, as one item of its sequence."""
    item = Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = float(slope), float(intercept)
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 4095
    item.LUTLabel = "units"
    return DicomSequence([item])


def set_pixels(image: Dataset, stored: np.ndarray, bits_stored: int = 12) -> None:
    """Puts stored values [row, column] or [frame, row, column] into an image, uncompressed."""
    image.Rows, image.Columns = stored.shape[-2:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = 8 * stored.dtype.itemsize
    image.BitsStored = min(bits_stored, image.BitsAllocated)
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(stored.dtype.kind == "i")
    content = np.ascontiguousarray(stored).tobytes()
    image.PixelData = content + b"\0" * (len(content) % 2)


def change(image: Dataset, attributes: Mapping[str, Any]) -> None:
    """Sets attributes, malformed ones too; None removes one."""
    with disable_value_validation():
        for keyword, value in attributes.items():
            if keyword in image:
                delattr(image, keyword)
            if value is not None:
                setattr(image, keyword, value)


def write(folder: Path, images: Iterable[Dataset], syntax: str = ExplicitVRLittleEndian, seed: int = 3) -> list[Path]:
    """Writes images under names that say nothing, in an order that means nothing. Gives the path of each."""
    images = list(images)
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(images))
    paths = []
    taken = len(list(folder.iterdir()))
    for image, place in zip(images, order, strict=True):
        path = folder / f"IM{taken + place:05d}"
        _save(image, path, syntax)
        paths.append(path)
    return paths


def compress(images: Iterable[Dataset], syntax: str, **options: Any) -> list[Dataset]:
    """Compresses the images in place: with pydicom's encoders (`options` are theirs), or those of `jpeg_encoders`."""
    images = list(images)
    for image in images:
        image.file_meta = _meta(image, ExplicitVRLittleEndian)
        if syntax not in _JPEG:
            image.compress(syntax, generate_instance_uid=False, **options)
            continue
        stored = np.frombuffer(image.PixelData, f"<u{image.BitsAllocated // 8}").reshape(-1, image.Rows, image.Columns)
        image.PixelData = encapsulate([_JPEG[syntax](plane) for plane in stored])
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        image.file_meta.TransferSyntaxUID = syntax
    return images


def decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters, as precise as DICOM allows."""
    return [f"{value:.10f}"[:16] for value in values]


def _common(sop_class: str, modality: str, who: Names) -> Dataset:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = sop_class, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = who.study, who.series
    image.FrameOfReferenceUID = who.frame_of_reference
    image.Modality, image.Manufacturer, image.ManufacturerModelName = modality, "SIEMENS", "Testscan"
    image.PatientID, image.PatientName, image.PatientBirthDate = who.patient, "Ünusual^Näme", "19010203"
    image.AccessionNumber = "ACC-0815"
    # As the Basic Profile leaves it: what it lets stand may be dummies, and is for us an identifier all the same.
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "Basic Profile"
    return image


def _meta(image: Dataset, syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    return meta


def _save(image: Dataset, path: Path, syntax: str) -> None:
    if not hasattr(image, "file_meta"):
        image.file_meta = _meta(image, syntax)
    if image.file_meta.TransferSyntaxUID == ExplicitVRBigEndian and image.BitsAllocated > 8:
        image["PixelData"].VR = "OW"
        image.PixelData = np.frombuffer(image.PixelData, f"<u{image.BitsAllocated // 8}").byteswap().tobytes()
    stated = image.file_meta.TransferSyntaxUID
    with disable_value_validation():
        image.save_as(
            path,
            enforce_file_format=True,
            implicit_vr=stated == ImplicitVRLittleEndian,
            little_endian=stated != ExplicitVRBigEndian,
        )
