"""Every rule of the gate: a series is spoilt in one way, and exactly this is found."""

import zipfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from support.dicom_maker import (
    CORONAL,
    Grid,
    change,
    classic,
    compress,
    enhanced,
    head,
    names,
    real_world_values,
    set_pixels,
    write,
)

from fedsite.dicom.checks import RULES, Rule
from fedsite.dicom.model import Inventory
from fedsite.dicom.rules.labels import LABELS
from fedsite.dicom.scan import scan
from fedsite.jobs.data.inspect import read_all
from fedsite.site.pseudonyms import Pseudonyms

Plant = Callable[[Path], object]
PLANTS: dict[str, Plant] = {}


def plants(rule: str) -> Callable[[Plant], Plant]:
    """Registers how the fault of a rule is made."""

    def register(plant: Plant) -> Plant:
        PLANTS[rule] = plant
        return plant

    return register


def _spoilt(folder: Path, modality: str = "MR", **attributes: object) -> None:
    write(folder, classic(modality, **attributes))


def _one_spoilt(folder: Path, modality: str = "MR", **attributes: object) -> None:
    images = classic(modality)
    change(images[2], attributes)
    write(folder, images)


def _repeated(folder: Path, **by_copy: tuple[object, object]) -> None:
    """The same slices twice with different voxels; `by_copy` gives an attribute's value in each copy."""
    who, grid = names(), Grid()
    for copy in (0, 1):
        values = {keyword: both[copy] for keyword, both in by_copy.items()}
        write(folder, classic("MR", grid, grid.voxels(copy), who, 1 + copy * grid.slices, **values))


@plants("not-dicom")
def _(folder: Path) -> None:
    write(folder, classic())
    (folder / "notes.dcm").write_text("no DICOM, whatever the name says\n" * 50)


@plants("empty-file")
def _(folder: Path) -> None:
    write(folder, classic())
    (folder / "IM9.dcm").touch()


@plants("media-directory")
def _(folder: Path) -> None:
    write(folder, classic())
    write(folder / "sub", [_object(uid.MediaStorageDirectoryStorage)])


@plants("damaged-header")
def _(folder: Path) -> None:
    path = write(folder, classic())[0]
    path.write_bytes(path.read_bytes()[:140])


@plants("unreadable-file")
def _(folder: Path) -> None:
    write(folder, classic())
    (folder / "circle").symlink_to(folder / "circle")


@plants("missing-file")
def _(folder: Path) -> None:
    write(folder, classic())
    (folder / "dangling").symlink_to(folder / "nowhere")


def _archive(path: Path, names: Sequence[str] = ("note",)) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"no DICOM" * 50)
    return path.read_bytes()


@plants("damaged-archive")
def _(folder: Path) -> None:
    write(folder, classic())
    content = _archive(folder / "export.zip")
    (folder / "export.zip").write_bytes(content[:-30])


@plants("encrypted-archive")
def _(folder: Path) -> None:
    write(folder, classic())
    content = bytearray(_archive(folder / "export.zip"))
    content[content.index(b"PK\1\2") + 8] |= 1
    (folder / "export.zip").write_bytes(content)


@plants("nested-archive")
def _(folder: Path) -> None:
    write(folder, classic())
    inner = _archive(folder / "export.zip")
    with zipfile.ZipFile(folder / "export.zip", "w") as archive:
        archive.writestr("inner.zip", inner)


@plants("archive-too-large")
def _(folder: Path) -> None:
    write(folder, classic())
    content = bytearray(_archive(folder / "export.zip"))
    size = content.index(b"PK\1\2") + 24
    content[size : size + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    (folder / "export.zip").write_bytes(content)


@plants("archive-names")
def _(folder: Path) -> None:
    write(folder, classic())
    _archive(folder / "export.zip", ["../note"])


@plants("archive-method")
def _(folder: Path) -> None:
    write(folder, classic())
    content = bytearray(_archive(folder / "export.zip"))
    method = content.index(b"PK\1\2") + 10
    content[method : method + 2] = (9).to_bytes(2, "little")  # Deflate64
    (folder / "export.zip").write_bytes(content)


def _object(sop_class: str) -> Dataset:
    image = classic()[0]
    image.SOPClassUID = sop_class
    return image


for rule, sop_class in {
    "secondary-capture": uid.SecondaryCaptureImageStorage,
    "segmentation": uid.SegmentationStorage,
    "structured-report": uid.XRayRadiationDoseSRStorage,
    "presentation-state": uid.GrayscaleSoftcopyPresentationStateStorage,
    "radiotherapy-object": uid.RTStructureSetStorage,
    "raw-data": uid.RawDataStorage,
    "not-ct-or-mr": uid.PositronEmissionTomographyImageStorage,
}.items():
    PLANTS[rule] = lambda folder, sop_class=sop_class: _spoilt(folder, SOPClassUID=sop_class)

PLANTS |= {
    "localizer": lambda folder: _spoilt(folder, "CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "projection": lambda folder: _spoilt(folder, ImageType=["DERIVED", "SECONDARY", "MIP"]),
    "reformat": lambda folder: _spoilt(folder, "CT", ImageType=["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]),
    "mosaic": lambda folder: _spoilt(folder, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]),
    "burned-in-annotation": lambda folder: _one_spoilt(folder, BurnedInAnnotation="YES"),
    "text-in-pixels": lambda folder: _one_spoilt(folder, "CT", ImageType=["DERIVED", "PRIMARY", "SCREEN SAVE"]),
    "not-deidentified": lambda folder: _one_spoilt(folder, PatientIdentityRemoved=None),
    "deidentification-unstated": lambda folder: _spoilt(folder, DeidentificationMethod=None),
    "identifiers-left": lambda folder: _one_spoilt(folder, PatientAddress="Kirchweg 1"),
    "dates-kept": lambda folder: _spoilt(folder, StudyDate="20240229"),
    "descriptions-kept": lambda folder: _spoilt(folder, StudyDescription="Schlaganfall?"),
    "original-uids": lambda folder: _spoilt(folder, StudyInstanceUID="1.3.12.2.1107.5.2.43.67093.2022071112345678"),
    "several-patients": lambda folder: _one_spoilt(folder, PatientID="SOMEONE-ELSE"),
    "patient-unit-doubtful": lambda folder: _spoilt(folder, PatientID=""),
    "series-uid-missing": lambda folder: _spoilt(folder, SeriesInstanceUID=None),
    "no-pixel-data": lambda folder: _one_spoilt(folder, PixelData=b""),
    "wrong-length": lambda folder: _one_spoilt(folder, PixelData=b"\0" * 94),
    "no-rescale": lambda folder: _spoilt(folder, "CT", RescaleSlope=None),
    "rescale-not-finite": lambda folder: _spoilt(folder, RescaleSlope="NaN", RescaleIntercept=0),
    "lossy-compression": lambda folder: _spoilt(folder, LossyImageCompression="01"),
    "rescale-varying": lambda folder: _one_spoilt(folder, "CT", RescaleSlope=2),
    "inverted-display": lambda folder: _spoilt(folder, PhotometricInterpretation="MONOCHROME1"),
    "missing-geometry": lambda folder: _one_spoilt(folder, ImagePositionPatient=None),
    "geometry-not-finite": lambda folder: _one_spoilt(folder, ImagePositionPatient=["nan", "0", "3"]),
    "orientation-not-orthonormal": lambda folder: _one_spoilt(
        folder, ImageOrientationPatient=["1", "0", "0", "0.1", "1", "0"]
    ),
    "mixed-orientation": lambda folder: _one_spoilt(folder, ImageOrientationPatient=[*map(str, sum(CORONAL, ()))]),
    "mixed-spacing": lambda folder: _one_spoilt(folder, PixelSpacing=["0.8", "0.51"]),
    "mixed-frame-of-reference": lambda folder: _one_spoilt(folder, FrameOfReferenceUID=uid.generate_uid()),
    "no-frame-of-reference": lambda folder: _spoilt(folder, FrameOfReferenceUID=None),
    "too-few-slices": lambda folder: write(folder, classic(grid=Grid(slices=2))),
    "duplicate-positions": _repeated,
    "time-series": lambda folder: _repeated(folder, TemporalPositionIdentifier=(1, 2)),
    "repeated-acquisitions": lambda folder: _repeated(folder, AcquisitionNumber=(1, 2)),
    "missing-slices": lambda folder: write(folder, [each for each in classic() if each.InstanceNumber != 3]),
    "tilt": lambda folder: write(folder, classic("CT", Grid(shear=(0, 0.05, 0)))),
    "patient-position": lambda folder: _spoilt(folder, PatientPosition="FFDR"),
    "contrast-agent": lambda folder: _spoilt(folder, "CT", ContrastBolusAgent="Iomeprol 400"),
    "thick-slices": lambda folder: write(folder, classic(grid=Grid(step=10.0))),
    "thickness-unlike-step": lambda folder: _spoilt(folder, SliceThickness="2"),
    "b-value-unknown": lambda folder: _spoilt(folder, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]),
}


@plants("private-attributes-kept")
def _(folder: Path) -> None:
    images = classic()
    for image in images:
        image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"SV10")
    write(folder, images)


@plants("colour")
def _(folder: Path) -> None:
    images = classic()
    for image in images:
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    write(folder, images)


@plants("truncated-pixels")
def _(folder: Path) -> None:
    path = write(folder, classic())[1]
    path.write_bytes(path.read_bytes()[:-20])


@plants("pixel-format")
def _(folder: Path) -> None:
    images = classic()
    for image in images:
        set_pixels(image, np.zeros((6, 8), np.uint64))
    write(folder, images)


@plants("transfer-syntax")
def _(folder: Path) -> None:
    images = compress(classic(), uid.RLELossless)
    for image in images:
        image.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    write(folder, images)


@plants("too-large")
def _(folder: Path) -> None:
    images = compress(classic(), uid.RLELossless)
    for image in images:
        image.Rows = image.Columns = 60_000
    write(folder, images)


@plants("undecodable-pixels")
def _(folder: Path) -> None:
    images = compress(classic(), uid.JPEGLSLossless)
    images[2].PixelData = images[2].PixelData.replace(b"\xff\xda", b"\0\0")  # the start of the scan
    write(folder, images)


@plants("constant-image")
def _(folder: Path) -> None:
    write(folder, classic(voxels=np.full((5, 6, 8), 7, np.uint16)))


@plants("hu-out-of-range")
def _(folder: Path) -> None:
    grid = Grid(columns=40, rows=40, slices=5)
    write(folder, classic("CT", grid, head(grid), RescaleIntercept=0))


@plants("real-world-values-unused")
def _(folder: Path) -> None:
    write(folder, classic(RescaleSlope=2, RescaleIntercept=0, RealWorldValueMappingSequence=real_world_values(3, 1)))


@plants("mixed-size")
def _(folder: Path) -> None:
    images = classic()
    set_pixels(images[2], np.ones((5, 8), np.uint16))
    write(folder, images)


@plants("implausible-spacing")
def _(folder: Path) -> None:
    write(folder, classic(grid=Grid(between_rows=0.008, between_columns=0.005)))


@plants("uneven-steps")
def _(folder: Path) -> None:
    images = classic()
    images[2].ImagePositionPatient[2] = str(float(images[2].ImagePositionPatient[2]) + 0.4)
    write(folder, images)


@plants("positions-rounded")
def _(folder: Path) -> None:
    images = classic(grid=Grid(step=1.25, slices=9))
    for image in images:
        image.ImagePositionPatient = [f"{float(value):.1f}" for value in image.ImagePositionPatient]
    write(folder, images)


@plants("shifted-slices")
def _(folder: Path) -> None:
    images = classic()
    images[2].ImagePositionPatient[0] = str(float(images[2].ImagePositionPatient[0]) + 0.2)
    write(folder, images)


@plants("fewer-slices-than-sisters")
def _(folder: Path) -> None:
    who, grid = names(), Grid()
    write(folder, classic("MR", grid, grid.voxels(1), who, EchoTime=10))
    write(folder, classic("MR", grid, grid.voxels(2), who, 6, EchoTime=20)[:4])


@plants("instance-gaps")
def _(folder: Path) -> None:
    images = classic()
    images[-1].InstanceNumber = 9
    write(folder, images)


@plants("identical-duplicates")
def _(folder: Path) -> None:
    images = classic()
    write(folder, images)
    again = deepcopy(images)
    for image in again:
        image.SOPInstanceUID = uid.generate_uid()
    write(folder / "sent again", again)


def _inspected(folder: Path) -> Inventory:
    """The inventory after every accepted volume was read."""
    return read_all(scan(folder, Pseudonyms(b"k" * 32)), None)


def _broken(inventory: Inventory) -> set[str]:
    volumes = {each.id for volume in inventory.volumes for each in volume.findings}
    return volumes | {each.id for each in inventory.findings}


# What a fault brings along by its nature.
ALSO = {
    "too-large": {"wrong-length"},  # a few bytes that claim to be it
    "missing-slices": {"instance-gaps"},
    "damaged-header": {"instance-gaps", "missing-slices"},
}
NOT_PLANTED_HERE = {
    "direct-identifiers",  # see test_deidentification
    "unreadable-folder",  # see test_scan
    "resampled-tilt",  # see test_regrid
    "resampled-uneven",
    *(rule.id for rule in LABELS),  # see test_label_faults
}


@pytest.mark.parametrize("rule", sorted(PLANTS))
def test_a_planted_fault_is_found_and_an_error_refuses(rule: str, tmp_path: Path) -> None:
    PLANTS[rule](tmp_path)
    inventory = _inspected(tmp_path)
    assert rule in _broken(inventory)
    assert _broken(inventory) - {rule} <= ALSO.get(rule, set())
    for volume in inventory.volumes:
        is_error = any(each.severity == "error" for each in volume.findings)
        assert volume.verdict == ("refused" if is_error else "accepted")
        assert {each.where for each in volume.findings} <= {volume.id}


def test_a_clean_series_breaks_no_rule(tmp_path: Path) -> None:
    for modality in ("CT", "MR"):
        write(tmp_path, classic(modality))
        write(tmp_path, [enhanced(modality)])
    inventory = _inspected(tmp_path)
    assert [volume.verdict for volume in inventory.volumes] == ["accepted"] * 4
    assert _broken(inventory) == set()


def test_every_rule_is_planted() -> None:
    assert set(RULES) == PLANTS.keys() | NOT_PLANTED_HERE


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_rules_read_as_sentences(rule: Rule) -> None:
    assert rule.message[0].isupper() or rule.message[0] == "{"
    assert rule.message.endswith(".")
    assert rule.mend.endswith(".")
    assert rule.id == rule.id.lower().replace(" ", "-")
