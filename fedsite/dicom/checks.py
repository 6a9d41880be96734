"""Findings of the DICOM gate: what one of its rules (`fedsite.dicom.rules`) found about one volume or source."""

from dataclasses import dataclass

from fedsite.dicom.rules import RULES
from fedsite.dicom.rules.rule import Rule, Severity
from fedsite.errors import DataNotFit

__all__ = ["RULES", "Finding", "Rule", "Severity", "VolumeRefused", "finding"]


@dataclass(frozen=True)
class Finding:
    """What one rule found: a stable id, what is wrong, what to do, and the pseudonym of the volume concerned."""

    id: str
    severity: Severity
    message: str
    mend: str
    where: str = ""


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
