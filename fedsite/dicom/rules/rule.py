"""What a rule of the DICOM gate is, and the mends that many of them share."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """One rule. `message` is a format string over the facts that a finding of this rule states."""

    id: str
    severity: Severity
    message: str
    mend: str


EXPORT_AGAIN = "Export the series again from the archive, complete and unprocessed."
EXPORT_ORIGINAL = "Export the original image series instead of this object."
LEAVE_OUT = "Nothing to do: it is left out. Export the original images if they are missing."
