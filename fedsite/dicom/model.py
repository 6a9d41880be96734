"""What a scan keeps in memory: files, image planes, volumes. Small, immutable, and silent about identifiers.

Terms are the standard's: an instance is one DICOM object (one file), a frame one image plane in it. Classic
objects have one frame, enhanced multi-frame objects many; from here on nothing asks which it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsite.dicom.checks import Finding
from fedsite.dicom.regrid import Regrid

Verdict = Literal["accepted", "refused"]
Progress = Callable[[int, int], None]
Vector = tuple[float, float, float]
Scale = tuple[float, float]


class Pseudonyms(Protocol):
    """Who gives keyed names to patients, studies and series (a site's own, or those of one run)."""

    def patient(self, patient_id: str, issuer: str) -> str:
        """The name of a patient, from PatientID (0010,0020) and its issuer (0010,0021)."""
        ...

    def study(self, uid: str) -> str:
        """The name of a study."""
        ...

    def series(self, uid: str, part: str = "") -> str:
        """The name of a series, or of one part of it."""
        ...


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How the voxels of one instance are stored (Image Pixel module, PS3.3 C.7.6.3).

    `offset` is where the value of PixelData begins in the file, in bytes; None when the whole data set is deflated.
    `padding` is the range of stored values, both ends included, that mark what lies beyond the field of view
    (C.7.5.1.1.2). `fault` is the id of the rule that the stored pixel data break, or "".
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    frames: int
    padding: tuple[int, int] | None = None
    offset: int | None = None
    fault: str = ""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class Traces:
    """What a header keeps of what de-identification removes (`deidentification`): tags that hold a value, no values.

    `private` says whether there are private attributes, `removed` whether PatientIdentityRemoved (0012,0062) is YES,
    `stated` whether a method is (0012,0063 or 0064), `options` which codes are given for it.
    """

    kept: frozenset[int] = frozenset()
    private: bool = False
    removed: bool = False
    stated: bool = False
    options: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Instance:
    """One DICOM file: who, what kind of object, how its pixels are stored. Never printed: it holds identifiers.

    `member` names the file within the zip archive at `path`; "" for a plain file. Open it by `opening.open_file`.
    """

    path: str
    modality: str
    refusal: str
    sop_instance: str
    series: str
    study: str
    frame_of_reference: str
    patient_id: str
    issuer: str
    accession: str
    scanner: str
    number: int | None
    transfer_syntax: str
    pixels: PixelLayout
    lossy: bool = False
    burned_in: bool = False
    has_modality_lut: bool = False
    patient_position: str = ""
    body_part: str = ""
    contrast: bool = False
    member: str = ""
    sex: str = ""
    birth_date: str = ""
    traces: Traces = Traces()
    shows_text: str = ""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Frame:
    """One image plane: where it lies (patient coordinates LPS, mm) and what tells it from its neighbours.

    `orientation` holds row and column direction, `spacing` the distances between rows and between columns (mm),
    `rescale` slope and intercept, `real_world` those of its maps of real-world values (None: a table). What the file
    does not say is None. `weighting` is what an MR image shows (`header.weighting`).
    """

    instance: Instance
    index: int
    position: Vector | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    rescale: Scale | None
    image_type: tuple[str, ...]
    technique: str
    b_value: float | None
    directionality: str | None
    direction: Vector | None
    echo_time: float | None
    temporal_position: int | None
    acquisition: int | None
    real_world: tuple[Scale | None, ...] = ()
    weighting: str = ""


@dataclass(frozen=True, eq=False)
class Volume:
    """One volume of a series, or what stands in its place when it was refused.

    Attributes:
        id: pseudonym of the volume, unique in an inventory.
        series, study, patient: pseudonyms of what it belongs to.
        modality: by SOP class, "CT" or "MR"; for other objects "SC", "SEG", "SR", "PR", "RT", "RAW" or "OT".
        shape: voxels along the axes of the array (columns, rows, slices).
        affine: 4x4, voxel indices to RAS coordinates in mm; NaN where the geometry is unknown (refused volumes only).
        part: what tells it from its sisters when a series was divided.
        b_value: in s/mm2.
        directionality: the terms of (0018,9075): NONE, DIRECTIONAL, ISOTROPIC.
        scanner: manufacturer and model.
        findings: all of them; one error is enough for the verdict "refused".
        keys: raw UIDs and ids, for pairing with labels in memory. Never written.
        frames: the slices, in the order of the array's third axis (as they were acquired, where `regrid` is given).
        regrid: how reading brings the frames onto the grid that shape and affine describe, where it has to.
    """

    id: str
    series: str
    study: str
    patient: str
    modality: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    part: str | None
    b_value: float | None
    directionality: str | None
    image_type: tuple[str, ...]
    scanner: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    keys: frozenset[str] = field(repr=False)
    frames: tuple[Frame, ...] = field(repr=False)
    regrid: Regrid | None = field(default=None, repr=False)

    @property
    def spacing(self) -> Vector:
        """Distance between voxel centres along each axis in mm; NaN where unknown."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def weighting(self) -> str:
        """What an MR image shows (`header.weighting`)."""
        return self.frames[0].weighting if self.frames else ""

    @property
    def has_contrast_agent(self) -> bool:
        """Whether the images name a contrast agent."""
        return any(frame.instance.contrast for frame in self.frames)

    @property
    def frame_of_reference(self) -> str:
        """The UID of the coordinate system that the slices lie in; "" where they name none."""
        return self.frames[0].instance.frame_of_reference if self.frames else ""

    @property
    def is_integral(self) -> bool:
        """Whether all values are whole numbers after rescaling, so that integers can hold them."""
        scales = {frame.rescale or (1.0, 0.0) for frame in self.frames}
        plain = not any(frame.instance.has_modality_lut for frame in self.frames)
        return plain and self.regrid is None and all(number.is_integer() for scale in scales for number in scale)


@dataclass(frozen=True)
class Inventory:
    """What a scan found: the volumes, the findings that belong to no volume, and how many files were looked at."""

    volumes: tuple[Volume, ...]
    findings: tuple[Finding, ...]
    files: int
