"""Rules of what is stored for a voxel."""

from fedsite.dicom.rules.rule import EXPORT_AGAIN, Rule

# What is stored for a voxel.
PIXELS = (
    Rule("no-pixel-data", "error", "{count} image(s) hold no pixel data.", EXPORT_AGAIN),
    Rule("truncated-pixels", "error", "{count} image(s) end before their pixel data do.", EXPORT_AGAIN),
    Rule(
        "wrong-length",
        "error",
        "In {count} image(s) the pixel data are not as long as rows, columns and bits say.",
        EXPORT_AGAIN,
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
    Rule("undecodable-pixels", "error", "The pixel data of an image cannot be decoded.", EXPORT_AGAIN),
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
    Rule("rescale-not-finite", "error", "The rescale slope or intercept is not a usable number.", EXPORT_AGAIN),
    Rule(
        "hu-out-of-range",
        "error",
        "The values of the CT cannot be Hounsfield units: {reason}.",
        "Export the original series with the scanner's rescale slope and intercept.",
    ),
    Rule("constant-image", "error", "All voxels have the same value.", EXPORT_AGAIN),
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
        "real-world-values-unused",
        "warning",
        "A map of real-world values says something else than slope and intercept; it was not used.",
        "Nothing to do: values are those of slope and intercept, as other readers give them.",
    ),
    Rule(
        "inverted-display",
        "warning",
        "The images are meant to be shown inverted (MONOCHROME1).",
        "Nothing to do: values are read as stored, before any display.",
    ),
)
