"""Reading the header of one file: an instance and its frames, or the reason why it is none.

Only the attributes that a rule or a reader needs are parsed, and nothing behind the start of the pixel data; these
are located and measured, so that a truncated file is known without decoding anything.
"""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from fedsite.dicom.header import deidentification, elements, objects, pixeldata, scaling
from fedsite.dicom.header.derivation import derivation_words
from fedsite.dicom.header.diffusion import PRIVATE_TAGS, diffusion, named_attributes, vendor_attributes
from fedsite.dicom.header.dimensions import time_dimension, timed
from fedsite.dicom.header.elements import PREAMBLE_BYTES, Parsed
from fedsite.dicom.header.values import (
    Header,
    flatten,
    flatten_groups,
    number,
    numbers,
    shown,
    tag_of,
    text,
    value_at,
    whole,
    words,
)
from fedsite.dicom.header.weighting import echo_time, weighting
from fedsite.dicom.model import Frame, Instance, PixelLayout, Traces
from fedsite.dicom.source.archives import is_archive
from fedsite.dicom.source.opening import archive, open_file

# More frames than any scanner writes; an object that claims more is looked at as far as this.
MAX_FRAMES = 1 << 16

_KEYWORDS = (
    "AccessionNumber",
    "AcquisitionContrast",
    "AcquisitionNumber",
    "AngioFlag",
    "BitsAllocated",
    "BitsStored",
    "BodyPartExamined",
    "BurnedInAnnotation",
    "Columns",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "DeidentificationMethodCodeSequence",
    "DerivationCodeSequence",
    "DiffusionBValue",
    "DiffusionDirectionality",
    "DiffusionGradientOrientation",
    "DimensionIndexSequence",
    "EchoTime",
    "FlipAngle",
    "FrameOfReferenceUID",
    "HighBit",
    "ImageComments",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "InversionTime",
    "IssuerOfPatientID",
    "LossyImageCompression",
    "Manufacturer",
    "ManufacturerModelName",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PatientID",
    "PatientPosition",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "RealWorldValueMappingSequence",
    "RepetitionTime",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "ScanningSequence",
    "SequenceName",
    "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence",
    "SliceThickness",
    "StudyInstanceUID",
    "TemporalPositionIdentifier",
    "VolumeBasedCalculationTechnique",
)


WANTED = {
    int(tag): tag for tag in (*map(tag_of, ("SpecificCharacterSet", *_KEYWORDS)), *PRIVATE_TAGS, *scaling.PRIVATE_TAGS)
}
_LUT = tag_of("ModalityLUTSequence")
_METHOD_CODES = tag_of("DeidentificationMethodCodeSequence")
_SEX, _BIRTH_DATE, _DESCRIPTION = deidentification.SEX, deidentification.BIRTH_DATE, deidentification.DESCRIPTION
_AGENTS = tag_of("ContrastBolusAgentSequence")
_NO_AGENT = frozenset({"", "NO", "NONE", "N", "0"})
_CONVERTED = tag_of("UnassignedPerFrameConvertedAttributesSequence")


# What a file gives: its image planes, or the id of the rule that says why there are none, or that it is an archive.
Read = tuple[Frame, ...] | str
ARCHIVE = "archive"


def read_frames(path: str, member: str = "") -> Read:
    """The image planes of one file, or what stands in their place.

    Objects that are no CT or MR image give one frame whose instance carries the refusal.
    Must run inside `values.tolerant_reading`.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return "not-dicom"  # opening a named pipe would wait for ever
        with open_file(path, member) as file:
            return _read(path, member, file, archive(path).getinfo(member).file_size if member else status.st_size)
    except FileNotFoundError:
        return "missing-file"
    except OSError:
        return "unreadable-file"
    except (zipfile.BadZipFile, zlib.error):
        return "damaged-archive"
    except Exception:  # noqa: BLE001 - pydicom raises nearly anything on damaged files: one finding
        return "damaged-header"


def _read(path: str, member: str, file: BinaryIO, size: int) -> Read:
    start = file.read(PREAMBLE_BYTES)
    if not start:
        return "empty-file"
    if start[128:132] != b"DICM" and is_archive(start):
        return "nested-archive" if member else ARCHIVE
    if not _looks_like_dicom(start):
        return "not-dicom"
    file.seek(0)
    parsed = elements.read(file, size, WANTED, deidentification.NOTED)
    header = flatten(parsed.dataset)
    sop_class = text(header, "SOPClassUID") or parsed.media_class
    if sop_class == uid.MediaStorageDirectoryStorage:
        return "media-directory"
    if not sop_class:
        return "damaged-header" if start[128:132] == b"DICM" else "not-dicom"
    instance = _instance((path, member), sop_class, parsed, header, pixeldata.layout(file, parsed, header))
    return tuple(_frames(instance, parsed.dataset, header))


def _looks_like_dicom(start: bytes) -> bool:
    """The magic of a DICOM file (PS3.10 section 7.1), or a bare data set from group 0008 on, as in old archives."""
    return start[128:132] == b"DICM" or (start[:2] == b"\x08\x00" and len(start) == PREAMBLE_BYTES)


def _instance(place: tuple[str, str], sop_class: str, parsed: Parsed, header: Header, pixels: PixelLayout) -> Instance:
    modality, refusal = objects.classify(sop_class)
    scanner = " ".join(shown(text(header, keyword)) for keyword in ("Manufacturer", "ManufacturerModelName"))
    return Instance(
        path=place[0],
        member=place[1],
        modality=modality,
        refusal=refusal,
        sop_instance=text(header, "SOPInstanceUID"),
        series=text(header, "SeriesInstanceUID"),
        study=text(header, "StudyInstanceUID"),
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        patient_id=text(header, "PatientID"),
        issuer=text(header, "IssuerOfPatientID"),
        accession=text(header, "AccessionNumber"),
        scanner=scanner.strip(),
        number=whole(header, "InstanceNumber"),
        transfer_syntax=parsed.syntax,
        pixels=pixels,
        lossy=text(header, "LossyImageCompression") == "01" or parsed.syntax in pixeldata.LOSSY,
        burned_in=text(header, "BurnedInAnnotation").upper() == "YES",
        has_modality_lut=bool(value_at(parsed.dataset, _LUT)),
        patient_position=text(header, "PatientPosition").upper(),
        body_part=text(header, "BodyPartExamined").upper(),
        sex=_plain(parsed.noted.get(_SEX)),
        birth_date=_plain(parsed.noted.get(_BIRTH_DATE)),
        traces=_traces(parsed),
        shows_text=deidentification.shows_text(
            words(header, "ImageType"), scanner, _plain(parsed.noted.get(_DESCRIPTION)), pixels.rows
        ),
        contrast=_has_contrast(parsed.dataset, header),
    )


def _traces(parsed: Parsed) -> Traces:
    private = any(tag & elements.PRIVATE for tag in parsed.tags)
    if _METHOD_CODES not in parsed.noted:
        return deidentification.read(parsed.noted, private, b"")
    codes = dict(parsed.dataset.items())[_METHOD_CODES]
    stored = codes.value if isinstance(codes, RawDataElement) else str(codes).encode()
    return deidentification.read(parsed.noted, private, stored or b"")


def _plain(value: bytes | None) -> str:
    """A value that is compared in memory and never shown: its characters beyond ASCII do not matter."""
    return value.strip(b" \0").decode("latin-1").upper() if value else ""


def _has_contrast(dataset: Dataset, header: Header) -> bool:
    return text(header, "ContrastBolusAgent").upper() not in _NO_AGENT or bool(value_at(dataset, _AGENTS))


def _frames(instance: Instance, dataset: Dataset, header: dict[str, Any]) -> Iterator[Frame]:
    if instance.refusal:
        yield _frame(instance, 0, header)
        return
    if instance.modality == "MR":
        header = named_attributes(header) | vendor_attributes(dataset) | header
    header |= _derivation(dataset) | scaling.attributes(dataset)
    for item in dataset.get("SharedFunctionalGroupsSequence") or []:
        header |= _group_values(item)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    # Where the pixel data are not what the header says, neither is the number of frames.
    count = min(instance.pixels.frames, MAX_FRAMES, MAX_FRAMES if not instance.pixels.fault else len(per_frame) or 1)
    per_frame, time = per_frame[:count], time_dimension(dataset)
    for index, item in enumerate(per_frame):
        yield _frame(instance, index, timed(header | _group_values(item), time))
    if len(per_frame) < count:
        plain = _frame(instance, len(per_frame), header)
        yield plain
        yield from (replace(plain, index=index) for index in range(plain.index + 1, count))


def _group_values(item: Dataset) -> dict[str, Any]:
    """What one item of the functional groups says. Legacy converted objects keep a frame's private attributes there."""
    values = flatten_groups(item)
    for nested in value_at(item, _CONVERTED) or ():
        values = vendor_attributes(nested) | values
    return values | _derivation(item) | scaling.attributes(item)


def _derivation(dataset: Dataset) -> dict[str, Any]:
    derived = derivation_words(dataset)
    return {"DerivationCodeSequence": derived} if derived else {}


def _frame(instance: Instance, index: int, header: Header) -> Frame:
    image_type = words(header, "FrameType") or words(header, "ImageType")
    image_type += tuple(word for word in header.get("DerivationCodeSequence", ()) if word not in image_type)
    b_value, directionality, direction = None, None, None
    if instance.modality == "MR":
        b_value, directionality, direction = diffusion(header, image_type)
    position = numbers(header, "ImagePositionPatient", 3)
    return Frame(
        instance=instance,
        index=index,
        position=(position[0], position[1], position[2]) if position else None,
        orientation=numbers(header, "ImageOrientationPatient", 6),
        spacing=numbers(header, "PixelSpacing", 2),
        thickness=number(header, "SliceThickness"),
        rescale=scaling.rescale(header, instance.modality),
        image_type=image_type,
        technique=text(header, "VolumeBasedCalculationTechnique").upper(),
        b_value=b_value,
        directionality=directionality,
        direction=direction,
        echo_time=echo_time(header),
        temporal_position=whole(header, "TemporalPositionIndex") or whole(header, "TemporalPositionIdentifier"),
        acquisition=whole(header, "FrameAcquisitionNumber") or whole(header, "AcquisitionNumber"),
        real_world=header.get("RealWorldValueMappingSequence", ()),
        weighting=weighting(header, image_type) if instance.modality == "MR" else "",
    )
