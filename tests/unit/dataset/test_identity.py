"""Every patient one person, nobody under two names; and nobody who is named, where the site does not take that."""

import dataclasses
import shutil

import pytest
from support.bids_maker import Head, head, write_subject
from support.dicom_maker import names
from support.study_maker import write_dicom

from fedsite.dataset import manifest, prepare
from fedsite.dataset.prepare import NothingUsable, Request
from fedsite.dataset.sources import collect

SPACING = (4.0, 4.0, 4.0)
DOUBTFUL = "patient-unit-doubtful"
UNMARKED = {"PatientIdentityRemoved": None, "DeidentificationMethod": None}


@pytest.fixture
def preparing(source, tmp_path, task, pseudonyms):
    def preparing(**changes):
        collected = collect(source, None, task, pseudonyms)
        return prepare.prepare(collected, tmp_path / "out", Request(task, SPACING, **changes), pseudonyms)

    return preparing


def reasons(excluded) -> list[list[str]]:
    return [[remark.id for remark in study.findings if remark.severity == "error"] for study in excluded]


def other_lesion(content: Head) -> Head:
    return dataclasses.replace(content, mask=content.mask[::-1].copy() * (content.image > 150))


def split_apart(pseudonyms, *subjects: str) -> float:
    """A validation fraction by which the first and the last of the subjects fall to different splits."""
    fractions = sorted(pseudonyms.fraction(pseudonyms.patient(subject, "bids")) for subject in subjects)
    return sum(fractions[:2]) / 2


# --- one image under two ids ------------------------------------------------------------------------------------------


def test_one_image_under_two_ids_is_left_out_in_both(source, tmp_path, preparing):
    write_subject(source, "one", head(1))
    write_subject(source, "again", other_lesion(head(1)))  # drawn by another hand
    write_subject(source, "two", head(2))
    found = preparing(validation_fraction=0.0).manifest
    assert len(found.cases) == 1
    assert reasons(found.excluded) == [[DOUBTFUL], [DOUBTFUL]]
    one, other = found.excluded
    assert other.id in one.reason.message
    assert one.id in other.reason.message
    assert manifest.load(tmp_path / "out") == found
    assert len([*(tmp_path / "out" / "cases").iterdir()]) == 1


def test_nobody_is_both_trained_on_and_held_out(source, preparing, pseudonyms):
    write_subject(source, "one", head(1))
    write_subject(source, "again", head(1))
    write_subject(source, "two", head(2))
    apart = split_apart(pseudonyms, "one", "again")
    found = preparing(validation_fraction=apart).manifest
    assert reasons(found.excluded) == [[DOUBTFUL, "same-patient-in-both-splits"]] * 2
    assert len(found.cases) == 1


def test_two_sessions_of_one_patient_may_be_alike(source, preparing):
    write_subject(source, "one", head(1), session="a")
    write_subject(source, "one", head(1), session="b")
    assert len(preparing().manifest.cases) == 2


def test_when_one_of_them_is_gone_the_other_is_taken(source, preparing):
    write_subject(source, "one", head(1))
    write_subject(source, "again", head(1))
    write_subject(source, "two", head(2))
    preparing()
    assert len(preparing().manifest.cases) == 1
    shutil.rmtree(source / "sub-again")
    shutil.rmtree(source / "derivatives" / "sub-again")
    assert len(preparing().manifest.cases) == 2


def test_one_that_comes_later_takes_both_out(source, preparing):
    write_subject(source, "one", head(1))
    write_subject(source, "two", head(2))
    assert len(preparing().manifest.cases) == 2
    write_subject(source, "again", head(1))
    later = preparing()
    assert (len(later.manifest.cases), later.removed) == (1, 1)


def test_a_check_sees_it_too(source, task, pseudonyms):
    write_subject(source, "one", head(1))
    write_subject(source, "again", head(1))
    with pytest.raises(NothingUsable) as refused:
        prepare.check(collect(source, None, task, pseudonyms), Request(task, SPACING), pseudonyms)
    assert [study.reason.id for study in refused.value.excluded] == [DOUBTFUL, DOUBTFUL]


# --- who the patient is -----------------------------------------------------------------------------------------------


def collected_from_dicom(tmp_path, task, pseudonyms, *series: dict, **options):
    for number, attributes in enumerate(series):
        write_dicom(tmp_path / "export", tmp_path / "labels", head(number), names(), **attributes)
    return collect(tmp_path / "export", tmp_path / "labels", task, pseudonyms, **options)


@pytest.mark.parametrize(
    ("series", "word"),
    [
        ([{"PatientID": ""}], "name no patient"),
        ([{"PatientSex": "M"}, {"PatientSex": "F"}], "both sexes"),
        ([{"PatientBirthDate": "19500615"}, {"PatientBirthDate": "19620615"}], "different birth dates"),
    ],
)
def test_what_a_scan_warns_of_leaves_the_study_out(series, word, tmp_path, task, pseudonyms):
    collected = collected_from_dicom(tmp_path, task, pseudonyms, *series)
    assert collected.studies == ()
    assert reasons(collected.excluded) == [[DOUBTFUL]] * len(series)
    assert all(word in study.reason.message for study in collected.excluded)
    assert all("PatientID" in study.reason.mend for study in collected.excluded)


# --- direct identifiers -----------------------------------------------------------------------------------------------


def test_identified_studies_are_left_out_where_the_site_demands_it(tmp_path, task, pseudonyms):
    ways = ({}, {**UNMARKED, "PatientID": "OTHER"})
    taken = collected_from_dicom(tmp_path / "may", task, pseudonyms, *ways)
    assert (len(taken.studies), taken.excluded) == (2, ())
    assert [remark.id for remark in taken.findings] == ["not-deidentified"]
    strict = collected_from_dicom(tmp_path / "must", task, pseudonyms, *ways, require_deidentified=True)
    assert len(strict.studies) == 1
    assert reasons(strict.excluded) == [["channel-missing", "direct-identifiers"]]


@pytest.mark.parametrize(
    ("sidecar", "told"),
    [
        ({"InstitutionName": "Kreisklinik", "DeviceSerialNumber": "4711"}, ""),
        ({"PatientName": "", "PatientBirthDate": None}, ""),
        ({"PatientName": "Näme", "AccessionNumber": "ACC-0815"}, "AccessionNumber, PatientName"),
        ({"PatientID": "PAT-4711"}, "PatientID"),
    ],
)
def test_sidecars_are_looked_at_where_the_site_demands_it(sidecar, told, source, task, pseudonyms):
    write_subject(source, "one", head(1), sidecar={"Modality": "MR", "DiffusionBValue": 1000, **sidecar})
    assert len(collect(source, None, task, pseudonyms).studies) == 1
    strict = collect(source, None, task, pseudonyms, require_deidentified=True)
    assert reasons(strict.excluded) == ([["channel-missing", "direct-identifiers"]] if told else [])
    for study in strict.excluded:
        assert f"({told})" in study.findings[-1].message
        assert not [value for value in ("Näme", "0815", "4711") if value in repr(study)]
