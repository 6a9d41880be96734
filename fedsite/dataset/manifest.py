"""The manifest of a prepared folder: what was prepared, how, from what kind of source, and what was left out.

`manifest.json` is closed (an unknown field is an error that names it), carries its schema's version and is replaced
in one step. It names studies and patients by the site's pseudonyms only, and holds no path but those of its cases.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsite.dicom.checks import Finding
from fedsite.errors import DataNotFit, SourceMissing
from fedsite.files import PRIVATE_FILE, write_atomically

FILE_NAME = "manifest.json"
SCHEMA: Final = 2

InputState = Literal["whole-head", "skull-stripped"]
Split = Literal["training", "validation"]
SourceKind = Literal["dicom", "bids", "decathlon", "brats"]
Pseudonym = Annotated[str, Field(pattern=r"^[a-z]-[a-z0-9]{1,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]
Size = tuple[int, int, int]


class Closed(BaseModel):
    """A part of the manifest: immutable, without room for unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Remark(Closed):
    """A finding as it is stored: the rule's name, how grave it is, what was seen, and what to do about it."""

    id: str
    severity: Literal["error", "warning"]
    message: str
    mend: str
    where: str = ""

    @classmethod
    def of(cls, finding: Finding) -> "Remark":
        """The stored form of a finding."""
        return cls(
            id=finding.id,
            severity=finding.severity,
            message=finding.message,
            mend=finding.mend,
            where=finding.where,
        )


class CaseRecord(Closed):
    """One prepared case. `id` is the study's pseudonym; sizes in voxels, spacings in mm, b in s/mm2.

    `dice_ceiling` is the Dice that a perfect model could reach on the image's own grid: the prepared mask, brought back
    there, against the drawn one. None where no lesion is drawn. `missing` names the optional channels that it lacks.
    """

    id: Pseudonym
    patient: Pseudonym
    split: Split
    file: Annotated[str, Field(pattern=r"^cases/[a-z0-9-]+\.safetensors$")]
    sha256: Sha256
    image_sha256: Sha256 | Literal[""] = ""
    shape: Size
    lesion_ml: float
    source_shape: Size
    source_spacing_mm: Triple
    b_value: float | None
    scanner: str
    input_state: InputState
    dice_ceiling: float | None = None
    fingerprint: Sha256
    missing: tuple[str, ...] = ()
    findings: tuple[Remark, ...] = ()


class Exclusion(Closed):
    """A study that was left out, with the findings that say why.

    `fingerprint` is empty where the study was refused by its headers alone: that costs nothing to decide again.
    """

    id: Pseudonym
    patient: Pseudonym
    findings: Annotated[tuple[Remark, ...], Field(min_length=1)]
    fingerprint: Sha256 | Literal[""] = ""

    @property
    def reason(self) -> Remark:
        """The finding that decided: the first error."""
        return next((remark for remark in self.findings if remark.severity == "error"), self.findings[0])


class Manifest(Closed):
    """The whole of `manifest.json`. What version 1 names is prepared anew: its cases had neither grid nor inputs."""

    schema_version: Literal[1, 2] = Field(default=SCHEMA, alias="schema")
    fedsite: str
    task: str
    channels: tuple[str, ...]
    source: SourceKind
    spacing_mm: Triple
    input_state: InputState
    validation_fraction: float
    cases: tuple[CaseRecord, ...]
    excluded: tuple[Exclusion, ...] = ()
    findings: tuple[Remark, ...] = ()

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    def of_split(self, split: Split) -> tuple[CaseRecord, ...]:
        """The cases of one split, in the manifest's order."""
        return tuple(case for case in self.cases if case.split == split)


def load(folder: Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises SourceMissing when there is none, DataNotFit when it is damaged, holds an unknown field, or is of
    another version.
    """
    try:
        content = (folder / FILE_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SourceMissing(
            f"There is no prepared data in {folder}.", "Prepare some: fedsite prepare-data SOURCE --task TASK"
        ) from None
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _explain(error) from None


def save(folder: Path, manifest: Manifest) -> None:
    """Replaces the manifest of a folder durably, in one step. Raises CannotWrite."""
    write_atomically(folder / FILE_NAME, manifest.model_dump_json(indent=1).encode() + b"\n", PRIVATE_FILE)


def _explain(error: ValidationError) -> DataNotFit:
    """The first fault, by the path of its field; never its content."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    again = "Prepare the data again into a new folder, or restore the file."
    if first["loc"] == ("schema",):
        return DataNotFit(f"{FILE_NAME} is of another version than {SCHEMA}.", "Install the fedsite that wrote it.")
    if first["type"] == "extra_forbidden":
        return DataNotFit(f"{FILE_NAME}: {place} is no field of a manifest of version {SCHEMA}.", again)
    return DataNotFit(f"{FILE_NAME}: {place}: {first['msg']}.", again)
