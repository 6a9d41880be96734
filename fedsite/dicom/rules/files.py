"""Rules of what a file holds: no DICOM at all, or objects that are no volume."""

from fedsite.dicom.rules.rule import EXPORT_ORIGINAL, LEAVE_OUT, Rule

# What a file can be that belongs to no volume.
FILES = (
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
        "missing-file",
        "error",
        "{count} file(s) are named, by a link or a DICOMDIR, or were listed, but are not there.",
        "See that the export is complete and that nothing changes it during the scan; then run the command again.",
    ),
    Rule(
        "unreadable-folder",
        "error",
        "{count} folder(s) could not be listed.",
        "Give the user who runs fedsite permission to read the source.",
    ),
    Rule(
        "damaged-archive",
        "error",
        "{count} zip archive(s), or files within them, are damaged.",
        "Copy or export the archive again; the volumes that its files belong to may lack slices.",
    ),
    Rule(
        "encrypted-archive",
        "error",
        "{count} file(s) in zip archives are encrypted.",
        "Unpack the archive with its password, and name the folder.",
    ),
    Rule(
        "nested-archive",
        "error",
        "{count} zip archive(s) lie within other archives.",
        "Unpack the outer archive, and name the folder.",
    ),
    Rule(
        "archive-too-large",
        "error",
        "{count} zip archive(s) hold more files, or grow more when unpacked, than an export does.",
        "Make sure that the archive comes from where it should; then unpack it, and name the folder.",
    ),
    Rule(
        "archive-names",
        "error",
        "{count} file(s) in zip archives have a name that leads out of the archive, or that another has too.",
        "Make the archive again with plain, distinct names; these files were passed over.",
    ),
    Rule(
        "archive-method",
        "error",
        "{count} file(s) in zip archives are compressed in a way that fedsite cannot read.",
        "Make the archive again with ordinary compression (Deflate), or unpack it and name the folder.",
    ),
)

# Objects that are no images of slices, by SOP class (PS3.4 table B.5-1), and images that are no slices.
OBJECTS = (
    Rule("secondary-capture", "error", "This is a secondary capture, not an acquired image.", EXPORT_ORIGINAL),
    Rule(
        "segmentation",
        "error",
        "This is a segmentation, not an image.",
        "Nothing to do: fedsite prepare-data pairs it, as a mask, with the images that it names.",
    ),
    Rule("structured-report", "error", "This is a structured report (dose, measurements), not an image.", LEAVE_OUT),
    Rule("presentation-state", "error", "This is a presentation state, not an image.", LEAVE_OUT),
    Rule(
        "radiotherapy-object",
        "error",
        "This is a radiotherapy object (structures, plan, dose), not an image.",
        "Nothing to do: fedsite prepare-data pairs structure sets, as masks, with the images that they name.",
    ),
    Rule("raw-data", "error", "This is raw or auxiliary data, not an image.", EXPORT_ORIGINAL),
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
        EXPORT_ORIGINAL,
    ),
    Rule(
        "reformat",
        "error",
        "This is a reformat of another image (MPR), not the slices as they were reconstructed.",
        "Export the series that it was made from.",
    ),
    Rule(
        "mosaic",
        "error",
        "Every image is a mosaic of all slices.",
        "Export the series as single slices or as enhanced multi-frame.",
    ),
    Rule("colour", "error", "The images are in colour.", EXPORT_ORIGINAL),
    Rule(
        "burned-in-annotation",
        "error",
        "The images say that they hold burned-in annotation.",
        "Export the series without text in the pixels.",
    ),
)
