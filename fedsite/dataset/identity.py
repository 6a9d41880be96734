"""Whether every patient is one person: the promise about privacy counts patients.

This is the one place where a study is held against others. Two ids with the same image are one person, and nothing
says which id is the right one: both are left out.
"""

from collections.abc import Iterable

from fedsite.dataset.manifest import CaseRecord
from fedsite.dataset.rules import finding
from fedsite.dicom.checks import Finding
from fedsite.dicom.volume.patients import RULE as DOUBTFUL

BOTH_SPLITS = "same-patient-in-both-splits"


def doubts(study: str, remarks: Iterable[Finding]) -> list[Finding]:
    """What a scan only warns of, in the remarks on a study's images: here the study is left out for it."""
    reasons = dict.fromkeys(remark.message for remark in remarks if remark.id == DOUBTFUL)
    return [finding(DOUBTFUL, study, reason=reason) for reason in reasons]


def twins(cases: Iterable[CaseRecord]) -> dict[str, list[Finding]]:
    """For each case whose image another patient has too: why it is left out."""
    alike: dict[str, list[CaseRecord]] = {}
    for case in cases:
        if case.image_sha256:
            alike.setdefault(case.image_sha256, []).append(case)
    return {
        case.id: _problems(case, [other for other in group if other.patient != case.patient])
        for group in alike.values()
        if len({case.patient for case in group}) > 1
        for case in group
    }


def _problems(case: CaseRecord, others: list[CaseRecord]) -> list[Finding]:
    names = ", ".join(sorted(other.id for other in others))
    found = [finding(DOUBTFUL, case.id, reason=f"The same image is there under another patient's id too ({names}).")]
    if any(other.split != case.split for other in others):
        found.append(finding(BOTH_SPLITS, case.id, studies=names))
    return found
