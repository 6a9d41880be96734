"""DICOM label objects made for tests: segmentations by highdicom, structure sets by hand; names planted in both."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from support.dicom_maker import Grid, change, decimals

# Typed by people into label objects; must be found in nothing that fedsite writes.
PLANTED = ("Übeltäter^Ünal", "Zahnlückenprinz", "Quastenflösser")


def segmentation(
    images: Sequence[Dataset],
    marked: np.ndarray,
    kind: str = "BINARY",
    segments: Sequence[str] = (PLANTED[1],),
    sparse: bool = True,
    **attributes: Any,
) -> Dataset:
    """A SEG drawn on some images (one a slice, or one enhanced object).

    `marked` is [slice, row, column] or, with several segments, [slice, row, column, segment]; fractions for kind
    "FRACTIONAL". Sparse ones hold only the frames in which something is marked.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription

    known = [_complete(image) for image in images]
    algorithm = AlgorithmIdentificationSequence("Testtool", codes.DCM.ArtificialIntelligence, "1.0")
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type=SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(segments, 1)
    ]
    made = Segmentation(
        source_images=known,
        pixel_array=np.array(marked),  # highdicom scales fractions in place
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=300,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="ACME",
        manufacturer_model_name="Testscan",
        software_versions="1",
        device_serial_number="4711",
        content_creator_name=PLANTED[0],
        omit_empty_frames=sparse,
        max_fractional_value=200,
    )
    made.SeriesDescription = PLANTED[2]
    change(made, attributes)
    return made


def structure_set(
    images: Sequence[Dataset],
    contours: Mapping[str, Sequence[np.ndarray]],
    kind: str = "CLOSED_PLANAR",
    refer: bool = True,
    **attributes: Any,
) -> Dataset:
    """An RTSTRUCT: for each structure, by name, its contours [n, 3] in patient coordinates (LPS, mm).

    Each contour names the image (one a slice) that is nearest; with `refer` off nothing is named but the frame of
    reference.
    """
    first = images[0]
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()
    made.Modality, made.PatientID, made.PatientName = "RTSTRUCT", first.PatientID, first.PatientName
    made.StructureSetLabel, made.OperatorsName, made.SeriesDescription = PLANTED[1], PLANTED[0], PLANTED[2]
    frame = _item(FrameOfReferenceUID=first.FrameOfReferenceUID)
    if refer:
        series = _item(
            SeriesInstanceUID=first.SeriesInstanceUID,
            ContourImageSequence=DicomSequence([_reference(image) for image in images]),
        )
        study = _item(
            ReferencedSOPInstanceUID=first.StudyInstanceUID, RTReferencedSeriesSequence=DicomSequence([series])
        )
        frame.RTReferencedStudySequence = DicomSequence([study])
    made.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    made.StructureSetROISequence = DicomSequence(
        [
            _item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID)
            for number, name in enumerate(contours, 1)
        ]
    )
    made.ROIContourSequence = DicomSequence(
        [
            _item(
                ReferencedROINumber=number,
                ContourSequence=DicomSequence([_contour(points, kind, images if refer else ()) for points in drawn]),
            )
            for number, drawn in enumerate(contours.values(), 1)
        ]
    )
    change(made, attributes)
    return made


def on_slice(grid: Grid, index: float, corners: Sequence[Sequence[float]]) -> np.ndarray:
    """Corners in (column, row) indices of a slice as points [n, 3] in patient coordinates (LPS, mm)."""
    columns, rows = np.asarray(corners, float).T
    across = np.outer(columns * grid.between_columns, grid.row) + np.outer(rows * grid.between_rows, grid.column)
    return np.asarray(grid.position(index)) + across


def circle(centre: tuple[float, float], radius: float, count: int = 90) -> np.ndarray:
    """Corners on a circle, in indices."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1)


def box(low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    """The corners of a rectangle, in indices."""
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])], float)


def _contour(points: np.ndarray, kind: str, images: Sequence[Dataset]) -> Dataset:
    contour = _item(
        ContourGeometricType=kind,
        NumberOfContourPoints=len(points),
        ContourData=decimals(np.ravel(points)),
    )
    if images:
        positions = np.array([image.ImagePositionPatient for image in images], float)
        orientation = np.array(images[0].ImageOrientationPatient, float)
        normal = np.cross(orientation[:3], orientation[3:])
        nearest = np.abs((positions - points.mean(axis=0)) @ normal).argmin()
        contour.ContourImageSequence = DicomSequence([_reference(images[nearest])])
    return contour


def _reference(image: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _complete(image: Dataset) -> Dataset:
    """A copy with the attributes that highdicom asks of its source images."""
    image = deepcopy(image)
    for keyword in ("PatientSex", "StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName", "SeriesNumber"):
        if keyword not in image:
            setattr(image, keyword, None)
    if not hasattr(image, "file_meta"):
        from pydicom.dataset import FileMetaDataset

        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image
