"""Rules of who is in the picture, and of what still says so."""

from fedsite.dicom.rules.rule import Rule

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
