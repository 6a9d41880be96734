"""DICOM label objects, segmentations (PS3.3 A.51) and RT structure sets (PS3.3 A.19): what they refer to."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pydicom
from pydicom import uid
from pydicom.dataset import Dataset

from fedsite.dicom.source.opening import open_file
from fedsite.errors import DataNotFit

Kind = Literal["segmentation", "structure-set"]

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # newer than pydicom's dictionary
KINDS: dict[str, Kind] = {
    uid.SegmentationStorage: "segmentation",
    LABEL_MAP_STORAGE: "segmentation",
    uid.RTStructureSetStorage: "structure-set",
}

_KEYWORDS = (
    "FrameOfReferenceUID",
    "ReferencedFrameOfReferenceSequence",
    "ReferencedSeriesSequence",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SourceImageSequence",
    "StudiesContainingOtherReferencedInstancesSequence",
    "StudyInstanceUID",
)
# Where an object names its images plane by plane: long, so read only when it names them nowhere else.
_PLANES = ("PerFrameFunctionalGroupsSequence", "ROIContourSequence", "SharedFunctionalGroupsSequence")


@dataclass(frozen=True, slots=True, repr=False)
class LabelObject:
    """A label object and what it says it was drawn on, by UIDs. Never printed: it holds identifiers."""

    path: str
    member: str
    kind: Kind
    sop_instance: str
    series: str
    study: str
    frames_of_reference: frozenset[str]
    referenced_series: frozenset[str]
    referenced_instances: frozenset[str]

    @property
    def has_references(self) -> bool:
        """Whether it names any image, series or frame of reference."""
        return bool(self.referenced_instances or self.referenced_series or self.frames_of_reference)


@dataclass(frozen=True, slots=True, repr=False)
class NamedImage:
    """An image that a label object names; `frames` (from 1) is empty where it means all of them."""

    sop_instance: str
    frames: tuple[int, ...]


def unreadable() -> DataNotFit:
    """The error of a label object that is damaged, or too far from the standard to be understood."""
    return DataNotFit("The label object is damaged, or not made as the standard says.", "Export it again.")


def read_label_object(path: str, member: str = "") -> LabelObject | None:
    """The references of a label object; None when the file is something else.

    Must run inside `values.tolerant_reading`. Raises DataNotFit when it is damaged, FileNotFoundError or
    PermissionError when it cannot be opened.
    """
    try:
        dataset = _read(path, member, _KEYWORDS)
        kind = KINDS.get(str(dataset.get("SOPClassUID", "")))
        if kind is None:
            return None
        series, instances = _references(dataset)
        if not series and not instances:
            instances = frozenset(_named_by_planes(_read(path, member, _PLANES)))
        return LabelObject(
            path=path,
            member=member,
            kind=kind,
            sop_instance=str(dataset.get("SOPInstanceUID", "")),
            series=str(dataset.get("SeriesInstanceUID", "")),
            study=str(dataset.get("StudyInstanceUID", "")),
            frames_of_reference=_frames_of_reference(dataset),
            referenced_series=series,
            referenced_instances=instances,
        )
    except (FileNotFoundError, PermissionError):
        raise
    except Exception:  # noqa: BLE001 - pydicom raises nearly anything on damaged data, and its text may quote it
        raise unreadable() from None


def named_images(items: Iterable[Dataset] | None) -> tuple[NamedImage, ...]:
    """The images of an Image SOP Instance Reference macro (PS3.3 table 10-3)."""
    return tuple(_named_image(item) for item in items or ())


def source_images(group: Dataset) -> tuple[NamedImage, ...]:
    """The images that a frame's functional groups name (Derivation Image macro, PS3.3 C.7.6.16.2.6)."""
    return tuple(
        image
        for derivation in group.get("DerivationImageSequence") or ()
        for image in named_images(derivation.get("SourceImageSequence"))
    )


def _read(path: str, member: str, keywords: Iterable[str]) -> Dataset:
    with open_file(path, member) as file:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))


def _references(dataset: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """The series and instances that the object as a whole names."""
    series: set[str] = set()
    instances = {image.sop_instance for image in named_images(dataset.get("SourceImageSequence"))}
    for item, images in _series_items(dataset):
        series.add(str(item.get("SeriesInstanceUID", "")))
        instances |= {image.sop_instance for image in named_images(item.get(images))}
    return frozenset(series - {""}), frozenset(instances - {""})


def _series_items(dataset: Dataset) -> Iterator[tuple[Dataset, str]]:
    """Each item that names a series, and its attribute that names the images (PS3.3 C.12.2 and C.8.8.5)."""
    yield from ((item, "ReferencedInstanceSequence") for item in dataset.get("ReferencedSeriesSequence") or ())
    for study in dataset.get("StudiesContainingOtherReferencedInstancesSequence") or ():
        yield from ((item, "ReferencedInstanceSequence") for item in study.get("ReferencedSeriesSequence") or ())
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            yield from ((item, "ContourImageSequence") for item in study.get("RTReferencedSeriesSequence") or ())


def _named_by_planes(dataset: Dataset) -> Iterator[str]:
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(groups) or ():
            yield from (image.sop_instance for image in source_images(group))
    for structure in dataset.get("ROIContourSequence") or ():
        for contour in structure.get("ContourSequence") or ():
            yield from (image.sop_instance for image in named_images(contour.get("ContourImageSequence")))


def _frames_of_reference(dataset: Dataset) -> frozenset[str]:
    items = [dataset, *(dataset.get("ReferencedFrameOfReferenceSequence") or ())]
    return frozenset({str(item.get("FrameOfReferenceUID", "")) for item in items} - {""})


def _named_image(item: Dataset) -> NamedImage:
    stated: Any = item.get("ReferencedFrameNumber")
    frames = () if stated in (None, "") else (stated,) if isinstance(stated, int) else tuple(stated)
    return NamedImage(str(item.get("ReferencedSOPInstanceUID", "")), tuple(int(frame) for frame in frames))
