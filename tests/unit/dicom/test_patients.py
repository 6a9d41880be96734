"""One id, one person: where headers under one id contradict each other, every volume of it is told of."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from support.dicom_maker import classic, write

from fedsite.dicom.model import Inventory
from fedsite.dicom.scan import scan
from fedsite.site.pseudonyms import Pseudonyms

RULE = "patient-unit-doubtful"


def scanned(folder: Path, *series: dict[str, Any]) -> Inventory:
    for attributes in series:
        write(folder, classic(**attributes))
    return scan(folder, Pseudonyms(b"k" * 32))


def reasons(inventory: Inventory) -> list[list[str]]:
    """The doubts about the patient, volume by volume."""
    return [[each.message for each in volume.findings if each.id == RULE] for volume in inventory.volumes]


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ({"PatientSex": "M"}, {"PatientSex": "F"}, "both sexes"),
        ({"PatientBirthDate": "19500615"}, {"PatientBirthDate": "19500616"}, "different birth dates"),
        ({"PatientBirthDate": "19500101"}, {"PatientBirthDate": "19510101"}, "different birth dates"),
    ],
)
def test_an_id_that_contradicts_itself(
    first: dict[str, str], second: dict[str, str], word: str, tmp_path: Path
) -> None:
    inventory = scanned(tmp_path, first, second)
    assert [len(found) for found in reasons(inventory)] == [1, 1]
    assert all(word in found[0] for found in reasons(inventory))
    for volume in inventory.volumes:
        assert volume.verdict == "accepted"  # a warning here; preparation leaves the study out
        assert {each.where for each in volume.findings} == {volume.id}
        assert "1950" not in repr(volume)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"PatientSex": "M"}, {"PatientSex": "O"}),
        ({"PatientSex": "M"}, {"PatientSex": ""}),
        ({"PatientBirthDate": "19500615"}, {"PatientBirthDate": ""}),
        ({"PatientBirthDate": "19500615"}, {"PatientBirthDate": "19500101"}),  # the year is kept
        ({"PatientBirthDate": "19500615"}, {"PatientBirthDate": "REMOVED"}),
        ({"PatientSex": "M"}, {"PatientSex": "F", "PatientID": "ANOTHER"}),
        ({"PatientSex": "M"}, {"PatientSex": "F", "IssuerOfPatientID": "ELSEWHERE"}),
        ({"PatientSex": "M"}, {"PatientSex": "F", "SOPClassUID": SecondaryCaptureImageStorage}),
    ],
)
def test_what_is_no_contradiction(first: dict[str, str], second: dict[str, str], tmp_path: Path) -> None:
    assert reasons(scanned(tmp_path, first, second)) == [[], []]


def test_without_an_id_that_alone_is_said(tmp_path: Path) -> None:
    inventory = scanned(tmp_path, {"PatientID": "", "PatientSex": "M"}, {"PatientID": "", "PatientSex": "F"})
    assert reasons(inventory) == [["It is doubtful who the patient is: the images name no patient."]] * 2


def test_a_foreign_image_in_a_series_says_nothing_about_the_others_of_its_patient(tmp_path: Path) -> None:
    mixed = classic(PatientSex="M")
    mixed[2].PatientID, mixed[2].PatientSex = "SOMEONE-ELSE", "F"
    write(tmp_path, mixed)
    assert reasons(scanned(tmp_path, {"PatientSex": "M"})) == [[], []]
