"""The rules of the DICOM gate: every finding that this room can give, in one table.

A rule of severity `error` keeps a volume out of training, a `warning` only tells. The table holds each rule's
text, so that the documentation can be generated from it and a program can rely on the ids. Messages carry counts
and measures, never a path, a UID or a name.
"""

from dataclasses import dataclass
from typing import Literal

from fedsite.errors import DataNotFit

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """What one rule found: a stable id, what is wrong, what to do, and the pseudonym of the volume concerned."""

    id: str
    severity: Severity
    message: str
    mend: str
    where: str = ""


@dataclass(frozen=True)
class Rule:
    """One rule. `message` is a format string over the facts that a finding of this rule states."""

    id: str
    severity: Severity
    message: str
    mend: str


class VolumeRefused(DataNotFit):
    """A volume turned out unfit while its voxels were read. `findings` says why."""

    code = "volume-refused"

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        first = findings[0]
        named = f"Volume {first.where}: {first.message}" if first.where else first.message
        super().__init__(named, first.mend)
        self.findings = findings


def finding(rule: str, where: str = "", **facts: object) -> Finding:
    """The finding of a rule (named by its id), with the facts that its message states filled in."""
    known = RULES[rule]
    return Finding(known.id, known.severity, known.message.format(**facts), known.mend, where)


_EXPORT_AGAIN = "Export the series again from the archive, complete and unprocessed."
_EXPORT_ORIGINAL = "Export the original image series instead of this object."
_LEAVE_OUT = "Nothing to do: it is left out. Export the original images if they are missing."

# What a file can be that belongs to no volume.
_FILES = (
    Rule("not-dicom", "warning", "{count} file(s) are not DICOM.", "Nothing to do: they are passed over."),
    Rule("empty-file", "warning", "{count} file(s) are empty.", "If images are missing, copy the export again."),
    Rule(
        "media-directory",
        "warning",
        "{count} file(s) are media directories (DICOMDIR).",
        "Nothing to do: the images themselves are scanned.",
    ),
    Rule(
        "damaged-header",
        "error",
        "{count} DICOM file(s) are damaged before their pixel data.",
        "Copy or export these files again; the volumes that they belong to may lack slices.",
    ),
    Rule(
        "unreadable-file",
        "error",
        "{count} file(s) could not be read.",
        "Give the user who runs fedsite permission to read the source, and see whether the disk is healthy.",
    ),
    Rule(
        "unreadable-folder",
        "error",
        "{count} folder(s) could not be listed.",
        "Give the user who runs fedsite permission to read the source.",
    ),
)

# Objects that are no images of slices, by SOP class (PS3.4 table B.5-1), and images that are no slices.
_OBJECTS = (
    Rule("secondary-capture", "error", "This is a secondary capture, not an acquired image.", _EXPORT_ORIGINAL),
    Rule(
        "segmentation",
        "error",
        "This is a segmentation, not an image.",
        "Put label objects into the folder that --labels names.",
    ),
    Rule("structured-report", "error", "This is a structured report (dose, measurements), not an image.", _LEAVE_OUT),
    Rule("presentation-state", "error", "This is a presentation state, not an image.", _LEAVE_OUT),
    Rule(
        "radiotherapy-object",
        "error",
        "This is a radiotherapy object (structures, plan, dose), not an image.",
        "Put structure sets into the folder that --labels names.",
    ),
    Rule("raw-data", "error", "This is raw or auxiliary data, not an image.", _EXPORT_ORIGINAL),
    Rule(
        "not-ct-or-mr",
        "error",
        "By its SOP class this is neither a CT nor an MR image.",
        "Nothing to do: fedsite learns from CT and MR only.",
    ),
    Rule("localizer", "error", "This is a localizer.", "Nothing to do: it is left out."),
    Rule(
        "projection",
        "error",
        "This is a projection or rendering (such as a MIP), not the acquired slices.",
        _EXPORT_ORIGINAL,
    ),
    Rule(
        "mosaic",
        "error",
        "Every image is a mosaic of all slices.",
        "Export the series as single slices or as enhanced multi-frame.",
    ),
    Rule("colour", "error", "The images are in colour.", _EXPORT_ORIGINAL),
    Rule(
        "burned-in-annotation",
        "error",
        "The images say that they hold burned-in annotation.",
        "Export the series without text in the pixels.",
    ),
)

# Who is in the picture.
_IDENTITY = (
    Rule(
        "several-patients",
        "error",
        "One series holds images of {count} patients.",
        "Correct the patient ids in the archive and export again.",
    ),
    Rule(
        "patient-unit-doubtful",
        "warning",
        "The images name no patient.",
        "Keep a (pseudonymous) PatientID when exporting: the privacy promise counts patients by it.",
    ),
    Rule(
        "series-uid-missing",
        "error",
        "The images name no series, so that nothing says which belong together.",
        "Keep SeriesInstanceUID (0020,000E), or a consistent replacement, when de-identifying.",
    ),
)

# What is stored for a voxel.
_PIXELS = (
    Rule("no-pixel-data", "error", "{count} image(s) hold no pixel data.", _EXPORT_AGAIN),
    Rule("truncated-pixels", "error", "{count} image(s) end before their pixel data do.", _EXPORT_AGAIN),
    Rule(
        "wrong-length",
        "error",
        "In {count} image(s) the pixel data are not as long as rows, columns and bits say.",
        _EXPORT_AGAIN,
    ),
    Rule(
        "pixel-format",
        "error",
        "The voxels are stored in a way that fedsite does not know ({format}).",
        "Export the series with 8, 16 or 32 bits allocated.",
    ),
    Rule(
        "transfer-syntax",
        "error",
        "The images are compressed in a way that fedsite cannot decode.",
        "Export the series uncompressed (Explicit VR Little Endian).",
    ),
    Rule("undecodable-pixels", "error", "The pixel data of an image cannot be decoded.", _EXPORT_AGAIN),
    Rule(
        "too-large",
        "error",
        "The volume has {voxels} voxels, more than {limit}.",
        "Export the series in smaller volumes.",
    ),
    Rule(
        "no-rescale",
        "error",
        "The CT has no rescale slope and intercept: its values are no Hounsfield units.",
        "Keep RescaleSlope and RescaleIntercept when exporting.",
    ),
    Rule("rescale-not-finite", "error", "The rescale slope or intercept is not a usable number.", _EXPORT_AGAIN),
    Rule("constant-image", "error", "All voxels have the same value.", _EXPORT_AGAIN),
    Rule(
        "lossy-compression",
        "warning",
        "The images were compressed with loss.",
        "Export from the archive's original where there is one.",
    ),
    Rule(
        "rescale-varying",
        "warning",
        "Rescale slope or intercept differ between slices.",
        "Nothing to do: each slice is scaled by its own.",
    ),
    Rule(
        "inverted-display",
        "warning",
        "The images are meant to be shown inverted (MONOCHROME1).",
        "Nothing to do: values are read as stored, before any display.",
    ),
)

# Where the slices lie.
_GEOMETRY = (
    Rule(
        "missing-geometry",
        "error",
        "{count} image(s) lack position, orientation or pixel spacing.",
        "Keep ImagePositionPatient, ImageOrientationPatient and PixelSpacing when exporting.",
    ),
    Rule(
        "geometry-not-finite",
        "error",
        "Position, orientation or pixel spacing of {count} image(s) is not a usable number.",
        _EXPORT_AGAIN,
    ),
    Rule(
        "orientation-not-orthonormal",
        "error",
        "Row and column direction of {count} image(s) are not two perpendicular unit vectors.",
        _EXPORT_AGAIN,
    ),
    Rule(
        "mixed-orientation",
        "error",
        "The slices lie in {count} different orientations.",
        "Export each orientation as a series of its own.",
    ),
    Rule("mixed-size", "error", "The slices differ in rows or columns.", _EXPORT_AGAIN),
    Rule("mixed-spacing", "error", "The slices differ in pixel spacing.", _EXPORT_AGAIN),
    Rule(
        "mixed-frame-of-reference",
        "error",
        "The slices lie in {count} frames of reference.",
        "Export each scan as a series of its own.",
    ),
    Rule(
        "too-few-slices",
        "error",
        "There are {count} slice(s), fewer than {least}.",
        "If there should be more, export the series again.",
    ),
    Rule(
        "duplicate-positions",
        "error",
        "{images} images share {positions} positions, and nothing tells the copies apart.",
        "Export each volume as a series of its own; for diffusion keep the b-values, also the vendor's private ones.",
    ),
    Rule(
        "time-series",
        "error",
        "This is a time series: {images} images at {positions} positions, {times} time points.",
        "Nothing to do: fedsite learns from single volumes. Export one time point if it is to be used.",
    ),
    Rule(
        "repeated-acquisitions",
        "error",
        "The same slices were acquired more than once: {images} images at {positions} positions.",
        "Export the acquisition that is to be used by itself; for diffusion keep the b-values, also the private ones.",
    ),
    Rule(
        "missing-slices",
        "error",
        "{count} slice(s) are missing within the volume.",
        "Export the series again, complete.",
    ),
    Rule(
        "uneven-steps",
        "error",
        "The distance between slices varies from {least:.3f} to {most:.3f} mm.",
        "Export a reconstruction with even spacing.",
    ),
    Rule(
        "tilt",
        "error",
        "The slices are tilted by {degrees:.1f} degrees against their stacking direction (gantry tilt).",
        "Export a reconstruction without tilt.",
    ),
    Rule(
        "shifted-slices",
        "error",
        "Slices are shifted sideways by up to {shift:.3f} mm.",
        "Export the series again as it was reconstructed.",
    ),
    Rule(
        "fewer-slices-than-sisters",
        "error",
        "This part has {count} slices where its sister has {sisters}.",
        "Export the series again, complete.",
    ),
    Rule(
        "no-frame-of-reference",
        "warning",
        "The images name no frame of reference.",
        "Keep FrameOfReferenceUID (or a consistent replacement) when exporting.",
    ),
    Rule(
        "thickness-unlike-step",
        "warning",
        "Slices of {thickness:g} mm lie {step:g} mm apart.",
        "Nothing to do: the distance counts.",
    ),
    Rule(
        "instance-gaps",
        "warning",
        "The instance numbers have gaps: {missing} of {expected} are absent.",
        "See whether the export is complete; slices may be missing at an end.",
    ),
    Rule(
        "identical-duplicates",
        "warning",
        "{count} image(s) are identical copies of others and were dropped.",
        "Nothing to do.",
    ),
    Rule(
        "b-value-unknown",
        "warning",
        "A diffusion image without a b-value.",
        "Keep the safe private attributes when de-identifying: vendors store the b-value there.",
    ),
)

RULES: dict[str, Rule] = {
    rule.id: rule for group in (_FILES, _OBJECTS, _IDENTITY, _PIXELS, _GEOMETRY) for rule in group
}
