"""Whether an id is one person: the promise about privacy counts patients by PatientID and its issuer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.model import Volume

RULE = "patient-unit-doubtful"
_SEXES = frozenset({"M", "F"})
# How de-identification writes a birth date of which it keeps the year.
_YEAR_ONLY = "0101"

Id = tuple[str, str]


def judge(volumes: Sequence[Volume]) -> list[Volume]:
    """The volumes of a scan, those whose patient's id contradicts itself with the findings that say so."""
    told: dict[Id, set[tuple[str, str]]] = {}
    for volume in volumes:
        for instance in {frame.instance for frame in volume.frames}:
            if instance.patient_id and not instance.refusal:
                told.setdefault((instance.patient_id, instance.issuer), set()).add((instance.sex, instance.birth_date))
    doubts = {patient: found for patient, pairs in told.items() if (found := [*_doubts(pairs)])}
    return [_with(volume, doubts) for volume in volumes] if doubts else [*volumes]


def _with(volume: Volume, doubts: dict[Id, list[Finding]]) -> Volume:
    patients = {(frame.instance.patient_id, frame.instance.issuer) for frame in volume.frames}
    more = dict.fromkeys(doubt for patient in sorted(patients) for doubt in doubts.get(patient, ()))
    return replace(volume, findings=(*volume.findings, *(replace(doubt, where=volume.id) for doubt in more)))


def _doubts(told: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    if {sex for sex, _ in told} >= _SEXES:
        yield finding(RULE, reason="its id is given to images of both sexes")
    if _are_several({date for _, date in told}):
        yield finding(RULE, reason="its id is given to images with different birth dates")


def _are_several(dates: Iterable[str]) -> bool:
    """Whether these cannot be one person's birth dates; what is no date of eight digits says nothing."""
    by_year: dict[str, set[str]] = {}
    for date in dates:
        if len(date) == 8 and date.isdecimal():
            by_year.setdefault(date[:4], set()).add(date[4:])
    return len(by_year) > 1 or any(len(days - {_YEAR_ONLY}) > 1 for days in by_year.values())
