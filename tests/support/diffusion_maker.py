"""Diffusion exports in the manner of the vendors: what was shot, in one series or in several, classic or enhanced.

Every volume has values of its own, so that a test sees which of them was picked.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from support.dicom_maker import SAGITTAL, Grid, Names, change, classic, diffusion_group, enhanced, names

GRID = Grid(6, 8, 3, *SAGITTAL, between_rows=20.0, between_columns=20.0, step=6.0)
RAMP = 4  # from slice to slice, so that no image is constant


@dataclass(frozen=True)
class Shot:
    """One volume of a diffusion exam: `kind` is b0, direction, trace or adc."""

    kind: str
    b_value: int
    value: int
    direction: tuple[float, float, float] | None = None

    @property
    def voxels(self) -> np.ndarray:
        """Stored values [slice, row, column]: the shot's own, rising a little from slice to slice."""
        ramp = self.value + RAMP * np.arange(GRID.slices, dtype=np.uint16)
        return np.broadcast_to(ramp[:, None, None], (GRID.slices, GRID.rows, GRID.columns)).astype(np.uint16)


AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
B0 = Shot("b0", 0, 3000)
DIRECTIONS = tuple(Shot("direction", 1000, value, axis) for value, axis in zip((400, 800, 1600), AXES, strict=True))
TRACE = Shot("trace", 1000, 1200)
ADC = Shot("adc", 1000, 700)
EXAM = (B0, *DIRECTIONS, TRACE, ADC)

Mark = Callable[[Dataset, Shot], None]


def siemens(image: Dataset, shot: Shot, block: int = 0x10) -> None:
    """Software of the years before XA: private attributes in the clear."""
    _siemens_type(image, shot)
    private = _block(image, 0x0019, "SIEMENS MR HEADER", block)
    private(0x0C, "IS", str(shot.b_value))
    private(0x0D, "CS", "DIRECTIONAL" if shot.kind != "b0" else "NONE")
    if shot.direction:
        private(0x0E, "FD", list(shot.direction))


def siemens_csa(
    image: Dataset, shot: Shot, header: Callable[[Mapping[str, Sequence[str]]], bytes] | None = None
) -> None:
    """Older software still: the same within the CSA header only."""
    _siemens_type(image, shot)
    tags: dict[str, Sequence[str]] = {"EchoTime": ["82"], "B_value": [str(shot.b_value)], "SliceLocation": []}
    if shot.direction:
        tags["DiffusionDirectionality"] = ["DIRECTIONAL"]
        tags["DiffusionGradientDirection"] = [f"{part:.8f}" for part in shot.direction]
    _block(image, 0x0029, "SIEMENS CSA HEADER")(0x10, "OB", (header or csa2)(tags))


def siemens_names(image: Dataset, shot: Shot) -> None:
    """An anonymiser took the private attributes and left the name of the sequence."""
    _siemens_type(image, shot)
    number = f"#{AXES.index(shot.direction) + 1}" if shot.direction else ""
    image.SequenceName = f"*ep_b{shot.b_value}{'t' if shot.kind == 'trace' else number}"


def ge(image: Dataset, shot: Shot) -> None:
    """b-values with an offset, directions along the axes of the image, a flag that says what is combined."""
    image.Manufacturer = "GE MEDICAL SYSTEMS"
    image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    parameters = _block(image, 0x0043, "GEMS_PARM_01")
    parameters(0x39, "IS", [str(1_000_000_000 + shot.b_value), "8", "0", "0"])
    flag = {"b0": 14, "trace": 15, "direction": 16, "adc": 20}[shot.kind]
    parameters(0x30, "SS", flag)
    acquisition = _block(image, 0x0019, "GEMS_ACQU_01")
    for offset, part in zip((0xBB, 0xBC, 0xBD), shot.direction or (0, 0, 0), strict=True):
        acquisition(offset, "DS", f"{part:g}")
    if shot.kind == "adc":
        image.ImageType = ["DERIVED", "SECONDARY", "COMBINED"]
        image.DerivationCodeSequence = _code("113041", "Apparent Diffusion Coefficient")


def ge_axes(image: Dataset, shot: Shot) -> None:
    """Three directions without vectors: the flag alone says along which axis."""
    ge(image, shot)
    for offset in (0xBB, 0xBC, 0xBD):
        image[0x0019, 0x1000 + offset].value = "0"
    if shot.direction:
        image[0x0043, 0x1030].value = 3 + AXES.index(shot.direction)


def philips(image: Dataset, shot: Shot) -> None:
    """All in one series, told apart by private attributes alone."""
    image.Manufacturer = "Philips Medical Systems"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
    imaging = _block(image, 0x2001, "Philips Imaging DD 001")
    imaging(0x03, "FL", float(shot.b_value))
    imaging(0x04, "CS", {"direction": "O"}.get(shot.kind, "I"))
    if shot.direction:
        mr = _block(image, 0x2005, "Philips MR Imaging DD 001")
        for offset, part in zip((0xB0, 0xB1, 0xB2), shot.direction, strict=True):
            mr(offset, "FL", part)
    if shot.kind == "adc":
        image.ImageType = ["DERIVED", "PRIMARY", "ADC", "ADC", "UNSPECIFIED"]


def united_imaging(image: Dataset, shot: Shot) -> None:
    """A private block of its own."""
    image.Manufacturer = "UIH"
    _generic_type(image, shot)
    private = _block(image, 0x0065, "Image Private Header")
    private(0x09, "FD", float(shot.b_value))
    if shot.direction:
        private(0x37, "FD", list(shot.direction))


def canon(image: Dataset, shot: Shot) -> None:
    """b-value and direction in the image's comment; nothing where no gradient was applied."""
    image.Manufacturer = "CANON_MEC"
    _generic_type(image, shot)
    if shot.direction:
        image.ImageComments = "b={}({:.3f},{:.3f},{:.3f})".format(shot.b_value, *shot.direction)
    elif shot.b_value:
        image.ImageComments = f"b={shot.b_value}"


def standard(image: Dataset, shot: Shot) -> None:
    """The standard's own attributes, in classic images."""
    image.Manufacturer = "TOSHIBA"
    _generic_type(image, shot)
    image.DiffusionBValue = float(shot.b_value)
    if shot.direction:
        image.DiffusionGradientOrientation = list(shot.direction)


VENDORS: dict[str, Mark] = {
    "siemens": siemens,
    "siemens in another block": lambda image, shot: siemens(image, shot, 0x2A),
    "siemens CSA 2": siemens_csa,
    "siemens CSA 1": lambda image, shot: siemens_csa(image, shot, csa1),
    "siemens sequence names": siemens_names,
    "ge": ge,
    "ge axes": ge_axes,
    "philips": philips,
    "united imaging": united_imaging,
    "canon": canon,
    "standard": standard,
}


def exported(mark: Mark, shots: Iterable[Shot] = EXAM, several: bool = False) -> list[Dataset]:
    """Classic images of these shots: in one series, or `several`: one for directions and b0, one for each result."""
    who = names()
    series: dict[str, Names] = {}
    images: list[Dataset] = []
    for shot in shots:
        group = shot.kind if several and shot.kind in ("trace", "adc") else "source"
        own = series.setdefault(group, Names(names().series, who.study, who.frame_of_reference, who.patient))
        volume = classic("MR", GRID, shot.voxels, own, 1 + len(images))
        for image in volume:
            mark(image, shot)
        images += volume
    return images


def exported_enhanced(shots: Sequence[Shot] = EXAM, several: bool = False, coded: bool = False) -> list[Dataset]:
    """Enhanced multi-frame objects: one for all, or `several`: one for each shot; `coded`: maps are known by code."""
    who = names()
    groups = [_groups(shot, coded) for shot in shots]
    if several:
        series = [Names(names().series, who.study, who.frame_of_reference, who.patient) for _ in shots]
        return [
            enhanced("MR", [GRID], [group], shot.voxels, own)
            for shot, group, own in zip(shots, groups, series, strict=True)
        ]
    voxels = np.stack([shot.voxels for shot in shots], axis=1)
    return [enhanced("MR", [GRID] * len(shots), groups, voxels, who)]


def stripped(images: list[Dataset]) -> list[Dataset]:
    """The same after an anonymiser took every private attribute, and what the standard has for diffusion."""
    keywords = ("DiffusionBValue", "DiffusionGradientOrientation", "ImageComments", "SequenceName")
    for image in images:
        image.remove_private_tags()
        change(image, {keyword: None for keyword in keywords if keyword in image})
        for item in image.get("PerFrameFunctionalGroupsSequence", ()):
            change(item, {"MRDiffusionSequence": None} if "MRDiffusionSequence" in item else {})
    return images


def csa2(tags: Mapping[str, Sequence[str]]) -> bytes:
    """A CSA header of the second version."""
    content = b"SV10\4\3\2\1" + struct.pack("<2i", len(tags), 77)
    for name, items in tags.items():
        content += struct.pack("<64si4s3i", name.encode(), len(items), b"FD", 4, 6 if items else 0, 77)
        for number in range(6 if items else 0):
            value = items[number].encode() + b"\0" if number < len(items) else b""
            content += struct.pack("<4i", len(value), len(value), 77, len(value)) + value + b"\0" * (-len(value) % 4)
    return content + b"\0" * (len(content) % 2)


def csa1(tags: Mapping[str, Sequence[str]]) -> bytes:
    """A CSA header of the first version, whose lengths are larger by the number of the first tag's items."""
    content = struct.pack("<2i", len(tags), 77)
    for name, items in tags.items():
        content += struct.pack("<64si4s3i", name.encode(), len(items), b"FD", 4, 6 if items else 0, 77)
        for number in range(6 if items else 0):
            value = items[number].encode() + b"\0" if number < len(items) else b""
            content += struct.pack("<4i", len(value) + 6, 0, 0, 0) + value + b"\0" * (-len(value) % 4)
    return content + b"\0" * (len(content) % 2)


def _groups(shot: Shot, coded: bool) -> dict[str, Any]:
    word = {"trace": "DIFFUSION", "adc": "ADC"}.get(shot.kind, "NONE")
    frame_type = ["ORIGINAL" if word == "NONE" else "DERIVED", "PRIMARY", "DIFFUSION", word]
    groups: dict[str, Any] = {}
    if shot.kind == "adc":
        if coded:
            frame_type[3] = "NONE"
            code = _code("113041", "Apparent Diffusion Coefficient")
            groups["DerivationImageSequence"] = {"DerivationCodeSequence": code}
    else:
        directionality = {"b0": "NONE", "trace": "ISOTROPIC"}.get(shot.kind, "DIRECTIONAL")
        groups |= diffusion_group(shot.b_value, directionality, shot.direction)
    return groups | {"MRImageFrameTypeSequence": {"FrameType": frame_type}}


def _siemens_type(image: Dataset, shot: Shot) -> None:
    image.Manufacturer = "SIEMENS"
    _generic_type(image, shot)


def _generic_type(image: Dataset, shot: Shot) -> None:
    derived = {"trace": "TRACEW", "adc": "ADC"}.get(shot.kind)
    image.ImageType = (
        ["DERIVED", "PRIMARY", "DIFFUSION", derived, "ND"]
        if derived
        else ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND"]
    )


def _block(image: Dataset, group: int, creator: str, block: int = 0x10) -> Callable[[int, str, Any], None]:
    image.add_new((group, block), "LO", creator)
    return lambda offset, representation, value: image.add_new((group, block << 8 | offset), representation, value)


def _code(value: str, meaning: str) -> DicomSequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return DicomSequence([item])
