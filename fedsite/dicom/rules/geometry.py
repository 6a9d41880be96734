"""Rules of where the slices lie, and of what tells the volumes of a series apart."""

from fedsite.dicom.rules.rule import EXPORT_AGAIN, Rule

# Where the slices lie.
GEOMETRY = (
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
        EXPORT_AGAIN,
    ),
    Rule(
        "orientation-not-orthonormal",
        "error",
        "Row and column direction of {count} image(s) are not two perpendicular unit vectors.",
        EXPORT_AGAIN,
    ),
    Rule(
        "mixed-orientation",
        "error",
        "The slices lie in {count} different orientations.",
        "Export each orientation as a series of its own.",
    ),
    Rule("mixed-size", "error", "The slices differ in rows or columns.", EXPORT_AGAIN),
    Rule("mixed-spacing", "error", "The slices differ in pixel spacing.", EXPORT_AGAIN),
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
        "implausible-spacing",
        "error",
        "Voxels of {size} mm: no CT or MR of a head has such.",
        "Export the series again as the scanner made it; spacing and positions are in mm.",
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
        "thick-slices",
        "warning",
        "The slices lie {step:g} mm apart: small lesions may fall between them.",
        "Nothing to do. Export a reconstruction with thinner slices if there is one.",
    ),
    Rule(
        "positions-rounded",
        "warning",
        "Positions are rounded to {decimals} decimal(s); the slices were put on the even line that they lie around.",
        "Nothing to do. Have the tool that wrote the files keep the positions as the scanner stated them.",
    ),
    Rule(
        "resampled-tilt",
        "warning",
        "Slices tilted by {degrees:.1f} degrees were resampled onto an upright grid.",
        "Nothing to do: --resample tilt asked for it.",
    ),
    Rule(
        "resampled-uneven",
        "warning",
        "Slices {least:.3f} to {most:.3f} mm apart were resampled to even steps of {step:.3f} mm.",
        "Nothing to do: --resample uneven asked for it.",
    ),
    Rule(
        "patient-position",
        "warning",
        "The patient lay in another position than usual ({position}).",
        "Look at the picture: the sides must be right.",
    ),
    Rule(
        "contrast-agent",
        "warning",
        "The images name a contrast agent.",
        "Leave the series out if the task is learned from images without one.",
    ),
    Rule(
        "b-value-unknown",
        "warning",
        "A diffusion image without a b-value.",
        "Keep the safe private attributes when de-identifying: vendors store the b-value there.",
    ),
)
