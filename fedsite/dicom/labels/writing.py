"""Writing what a model found in a volume as a DICOM segmentation (PS3.3 A.51, binary), on the volume's own slices.

It opens beside its series because it names the same patient, study, frame of reference and images. So it necessarily
holds what identifies the patient: it is the patient's own result, and belongs where the series is. It is marked for
research in every place that the standard has for it.

Classic and enhanced images are written alike: highdicom is shown one plain image for each slice, and what its frames
refer to is put in afterwards. (It would take every frame of a multi-frame object for a slice.)
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.labels.marking import Unfit, target
from fedsite.dicom.labels.segmentation import read_segmentation
from fedsite.dicom.model import Frame, Instance, Volume
from fedsite.dicom.source.opening import open_file
from fedsite.errors import DataNotFit, SourceMissing

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

RESEARCH_LABEL = "RESEARCH_USE"
RESEARCH_TEXT = "For research use only. Not for the care of a patient."
SERIES_NUMBER = 9000
_HEADERS = "the headers of its images cannot be carried over"

# What highdicom asks of an image and the standard allows to be empty (type 2).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# How much an image lost is a matter of what was made of it, too (PS3.3 C.7.6.1.1.5).
_OF_COMPRESSION = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
_PLAIN_CLASS = {"CT": uid.CTImageStorage, "MR": uid.MRImageStorage}


@dataclass(frozen=True)
class Segment:
    """A label of the task: its value, its name, and what it shows as a concept of SNOMED CT (code and meaning)."""

    value: int
    name: str
    code: str
    meaning: str


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation. `parameters` are its settings; `model_sha256` tells one model from another."""

    name: str
    version: str
    model_sha256: str
    parameters: Mapping[str, str] = field(default_factory=dict)


class Unwritable(DataNotFit):
    """No segmentation can be written for an image; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"A DICOM segmentation cannot be written for the image: {reason}.", "Ask for NIfTI instead: --nifti."
        )
        self.reason = reason


def obstacle(volumes: Sequence[Volume]) -> str:
    """Why no segmentation can be written for an image that was made of these volumes; "" where one can.

    It is known from headers alone, so before anything is computed.
    """
    first = volumes[0]
    if any(volume.regrid for volume in volumes):
        return "its slices were resampled onto another grid, which no image of the series has"
    if not first.frame_of_reference:
        return "its images name no frame of reference"
    instances = {frame.instance for volume in volumes for frame in volume.frames}
    if not all(instance.sop_instance and instance.series and instance.study for instance in instances):
        return "its images lack the UIDs by which it would refer to them"
    return ""


def encode(
    volumes: Sequence[Volume], values: NDArray[np.uint8], segments: Sequence[Segment], algorithm: Algorithm
) -> bytes:
    """A DICOM file with a segment for each of `segments`, from label values [column, row, slice].

    The volumes lie on one grid; the first is what the segmentation opens beside, and all are named as its sources.
    The file is read back before it is given: it holds exactly these values, or there is none.
    Raises Unwritable where `obstacle` finds one, and where headers cannot be carried over; SourceMissing.
    """
    reason = obstacle(volumes)
    if reason:
        raise Unwritable(reason)
    try:
        with tolerant_reading():
            header, classes = _headers(volumes)
            made = _made(volumes[0], values, segments, algorithm)
            _refer(made, volumes, classes)
            _name(made, header)
            content = io.BytesIO()
            made.save_as(content, enforce_file_format=True)
            whole = _reads_back(content, volumes, values, segments)
    except FileNotFoundError:
        raise SourceMissing(
            "A file of the source vanished while it was read.", "See that the source is mounted; run the command again."
        ) from None
    except Exception:  # noqa: BLE001 - pydicom and highdicom raise nearly anything on damaged headers, and may quote them
        raise Unwritable(_HEADERS) from None
    if not whole:
        raise Unwritable(_HEADERS)
    return content.getvalue()


def _headers(volumes: Sequence[Volume]) -> tuple[Dataset, dict[Instance, str]]:
    """The header of the first image without its pixels, and the SOP class of every image."""
    classes: dict[Instance, str] = {}
    for instance in dict.fromkeys(frame.instance for volume in volumes for frame in volume.frames):
        with open_file(instance.path, instance.member) as file:
            identity = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
        if identity.SOPInstanceUID != instance.sop_instance:
            raise Unwritable(_HEADERS)  # another image lies there since the scan
        classes[instance] = identity.SOPClassUID
    first = volumes[0].frames[0].instance
    with open_file(first.path, first.member) as file:
        return pydicom.dcmread(file, stop_before_pixels=True), classes


def _made(
    volume: Volume, values: NDArray[np.uint8], segments: Sequence[Segment], algorithm: Algorithm
) -> "Segmentation":
    from highdicom.seg import Segmentation

    number_of = np.zeros(256, np.uint8)
    for number, segment in enumerate(segments, start=1):
        number_of[segment.value] = number
    return Segmentation(
        source_images=[_plain_image(volume, k) for k in range(len(volume.frames))],
        pixel_array=number_of[values].transpose(2, 1, 0),
        segmentation_type="BINARY",  # what every viewer reads; label maps are newer than most
        segment_descriptions=_descriptions(segments, algorithm),
        series_instance_uid=uid.generate_uid(prefix=None),
        series_number=SERIES_NUMBER,
        series_description=f"{algorithm.name[:40]} (research use)",
        sop_instance_uid=uid.generate_uid(prefix=None),
        instance_number=1,
        manufacturer="fedsite",
        manufacturer_model_name=algorithm.name[:64],
        software_versions=algorithm.version[:64],
        device_serial_number=algorithm.model_sha256[:16],
        content_label=RESEARCH_LABEL,
        content_description=RESEARCH_TEXT,
        content_qualification="RESEARCH",
    )


def _descriptions(segments: Sequence[Segment], algorithm: Algorithm) -> "list[SegmentDescription]":
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    by = AlgorithmIdentificationSequence(
        name=algorithm.name[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version[:64],
        source="fedsite",
        parameters={"model_sha256": algorithm.model_sha256, **algorithm.parameters},
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=segment.name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=Code(segment.code, "SCT", segment.meaning),
            algorithm_type="AUTOMATIC",
            algorithm_identification=by,
            anatomic_regions=[codes.SCT.Brain],
        )
        for number, segment in enumerate(segments, start=1)
    ]


def _plain_image(volume: Volume, k: int) -> Dataset:
    """Slice `k` as a classic image without pixels; its instance's UID is the number of the slice."""
    frame, first = volume.frames[k], volume.frames[0]
    assert frame.position is not None
    assert first.orientation is not None
    assert first.spacing is not None
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = _PLAIN_CLASS[volume.modality], str(k)
    image.StudyInstanceUID, image.SeriesInstanceUID = first.instance.study, first.instance.series
    image.FrameOfReferenceUID, image.Modality = volume.frame_of_reference, volume.modality
    image.Rows, image.Columns = first.instance.pixels.rows, first.instance.pixels.columns
    image.ImagePositionPatient = [format_number_as_ds(value) for value in frame.position]
    image.ImageOrientationPatient = [format_number_as_ds(value) for value in first.orientation]
    image.PixelSpacing = [format_number_as_ds(value) for value in first.spacing]
    image.SpacingBetweenSlices = format_number_as_ds(volume.spacing[2])
    image.SliceThickness = format_number_as_ds(first.thickness or volume.spacing[2])
    image.LossyImageCompression = "01" if any(each.instance.lossy for each in volume.frames) else "00"
    for keyword in _MAY_BE_EMPTY:
        setattr(image, keyword, "")
    return image


def _refer(made: "Segmentation", volumes: Sequence[Volume], classes: Mapping[Instance, str]) -> None:
    """Names the images that the segmentation was made of: for each of its frames, and as a whole."""
    for group in made.PerFrameFunctionalGroupsSequence:
        derivation = group.DerivationImageSequence[0]
        placeholder = derivation.SourceImageSequence[0]
        k = int(placeholder.ReferencedSOPInstanceUID)
        derivation.SourceImageSequence = [
            _reference(
                volume.frames[k].instance,
                classes,
                [volume.frames[k]],
                PurposeOfReferenceCodeSequence=placeholder.PurposeOfReferenceCodeSequence,
                SpatialLocationsPreserved="YES",
            )
            for volume in volumes
        ]
    used: dict[Instance, list[Frame]] = {}
    for volume in volumes:
        for frame in volume.frames:
            used.setdefault(frame.instance, []).append(frame)
    made.SourceImageSequence = [_reference(instance, classes, frames) for instance, frames in used.items()]
    by_series: dict[str, list[Dataset]] = {}
    for instance in used:
        by_series.setdefault(instance.series, []).append(_reference(instance, classes))
    made.ReferencedSeriesSequence = [
        _item(SeriesInstanceUID=series, ReferencedInstanceSequence=images) for series, images in by_series.items()
    ]


def _reference(
    instance: Instance, classes: Mapping[Instance, str], frames: Sequence[Frame] = (), **attributes: object
) -> Dataset:
    """An image that is named (PS3.3 table 10-3), with the numbers of these of its frames where it has others too."""
    item = _item(ReferencedSOPClassUID=classes[instance], ReferencedSOPInstanceUID=instance.sop_instance, **attributes)
    if frames and instance.pixels.frames > len(frames):
        item.ReferencedFrameNumber = sorted(frame.index + 1 for frame in frames)
    return item


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _name(made: "Segmentation", header: Dataset) -> None:
    """Takes over whose study it is, as the images say it: in their own character set, and malformed where they are."""
    if "SpecificCharacterSet" in header:
        made.SpecificCharacterSet = header.SpecificCharacterSet
    made.copy_patient_and_study_information(header)
    for keyword in _OF_COMPRESSION:
        if keyword in header:
            setattr(made, keyword, header[keyword].value)


def _reads_back(
    content: io.BytesIO, volumes: Sequence[Volume], values: NDArray[np.uint8], segments: Sequence[Segment]
) -> bool:
    """Whether the file holds these values, and names the images that lie where its frames do."""
    content.seek(0)
    try:
        marked = read_segmentation(content, target(volumes, {segment.value: segment.name for segment in segments}))
    except Unfit:
        return False
    return bool(np.array_equal(marked.values, values))
