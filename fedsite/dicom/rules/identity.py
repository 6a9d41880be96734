"""Rules of who is in the picture, and of what still says so."""

from fedsite.dicom.rules.rule import EXPORT_ORIGINAL, Rule

# Who is in the picture.
IDENTITY = (
    Rule(
        "several-patients",
        "error",
        "One series holds images of {count} patients.",
        "Correct the patient ids in the archive and export again.",
    ),
    Rule(
        "patient-unit-doubtful",
        "warning",
        "It is doubtful who the patient is: {reason}.",
        "Export with a PatientID (a pseudonym will do) that is one for each person: the privacy promise counts by it.",
    ),
    Rule(
        "series-uid-missing",
        "error",
        "The images name no series, so that nothing says which belong together.",
        "Keep SeriesInstanceUID (0020,000E), or a consistent replacement, when de-identifying.",
    ),
)

# What still says so, though it need not: after PS3.15 table E.1-1 (`fedsite.dicom.header.deidentification`).
DEIDENTIFICATION = (
    Rule(
        "direct-identifiers",
        "error",
        "The images hold direct identifiers ({what}); this site takes de-identified input only.",
        "De-identify the export by the Basic Profile of DICOM PS3.15, mark it (0012,0062), and keep a pseudonymous "
        "PatientID. Or set policy.require_deidentified_input to false.",
    ),
    Rule(
        "text-in-pixels",
        "error",
        "The images look like {what}, on which devices write text about the patient.",
        EXPORT_ORIGINAL,
    ),
    Rule(
        "not-deidentified",
        "warning",
        "{count} of {images} image volume(s) are not marked as de-identified; their headers hold: {kinds}.",
        "Nothing to do where the site may use identified images: nothing of it is written or leaves. To demand "
        "de-identified input, set policy.require_deidentified_input.",
    ),
    Rule(
        "deidentification-unstated",
        "warning",
        "{count} volume(s) are marked as de-identified (0012,0062), but nothing says how.",
        "Have the tool that de-identifies write DeidentificationMethodCodeSequence (0012,0064).",
    ),
    Rule(
        "identifiers-left",
        "warning",
        "{count} volume(s) that are marked as de-identified still hold {what}.",
        "Have the tool that de-identifies remove these, as the Basic Profile of DICOM PS3.15 does.",
    ),
    Rule(
        "dates-kept",
        "warning",
        "{count} volume(s) that are marked as de-identified keep dates ({what}), and no code allows it.",
        "Remove them; or state the option (0012,0064: 113106 as they were, 113107 shifted).",
    ),
    Rule(
        "descriptions-kept",
        "warning",
        "{count} volume(s) that are marked as de-identified keep free text or drawings ({what}), and no code says that "
        "these were cleaned.",
        "See whether a name stands in them; remove them, or state the option (0012,0064: 113105, drawings 113103).",
    ),
    Rule(
        "private-attributes-kept",
        "warning",
        "{count} volume(s) that are marked as de-identified keep private attributes, and no code says that only safe "
        "ones were kept.",
        "Keep the safe ones alone (PS3.15 table E.3.10-1: b-values are among them) and state it (0012,0064: 113111).",
    ),
    Rule(
        "original-uids",
        "warning",
        "{count} volume(s) that are marked as de-identified have UIDs as scanners give them.",
        "Have the tool replace UIDs consistently, or state that it keeps them (0012,0064: 113110).",
    ),
)
