"""What headers keep, held against the profile: little is said of ordinary exports, the right thing of marked ones."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from support.dicom_maker import classic, enhanced, write

from fedsite.dicom.header.deidentification import TABLE, TAGS, Attribute, left, read, shows_text
from fedsite.dicom.model import Inventory, Traces
from fedsite.dicom.scan import scan
from fedsite.site.pseudonyms import Pseudonyms

IDENTIFIED = {
    "PatientIdentityRemoved": None,
    "DeidentificationMethod": None,
    "PatientAddress": "Kirchweg 1",
    "ReferringPhysicianName": "Doktor^Käthe",
    "InstitutionName": "Kreisklinik",
    "StationName": "MR-1",
    "StudyDate": "20240229",
    "StudyDescription": "Schlaganfall?",
}
VALUES = ("Näme", "Käthe", "Kirchweg", "Kreisklinik", "MR-1", "20240229", "Schlaganfall", "ACC-0815", "PAT-4711")
BIRTH_DATE, ADDRESS, DEVICE_SERIAL, OTHER_IDS, REMOVED = 0x00100030, 0x00101040, 0x00181000, 0x00101000, 0x00120062
OVERLAY_DATA, OVERLAY_COMMENTS = 0x60023000, 0x60024000


def inspected(folder: Path, images: list[Dataset], **options: Any) -> Inventory:
    write(folder, images)
    return scan(folder, Pseudonyms(b"k" * 32), **options)


def marked(*options: str, **attributes: Any) -> list[Dataset]:
    """A series that is marked as de-identified by the Basic Profile with some options."""
    codes = []
    for value in ("113100", *options):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", "Basic Profile or option"
        codes.append(code)
    return classic(DeidentificationMethodCodeSequence=Sequence(codes), **attributes)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_the_standards() -> None:
    assert TABLE[BIRTH_DATE] == Attribute("Z", "patient", "Patient's Birth Date")
    assert TABLE[ADDRESS] == Attribute("X", "patient", "Patient's Address")
    assert TABLE[DEVICE_SERIAL] == Attribute("X/Z/D", "device", "Device Serial Number")
    assert len(TABLE) > 400


def test_what_the_promise_counts_by_is_no_trace() -> None:
    assert TAGS.isdisjoint({0x00100020, 0x00100021})


@pytest.mark.parametrize(
    ("action", "kind", "may_be_dummy"),
    [
        ("X", "patient", False),
        ("Z", "patient", True),
        ("X/D", "device", True),
        ("X/Z", "dates", False),
        ("Z/D", "dates", True),
    ],
)
def test_where_a_dummy_may_stand(action: str, kind: str, may_be_dummy: bool) -> None:
    assert Attribute(action, kind, "").may_be_dummy == may_be_dummy


@pytest.mark.parametrize(
    "value", [b"", b"  ", b"^^", b"ANONYMOUS ", b"anonymized", b"0000", b"XXX", b"19000101", b"None"]
)
def test_values_that_name_nobody_do_not_count(value: bytes) -> None:
    assert read({ADDRESS: value}, private=False, codes=b"") == Traces()


def test_a_drawing_that_begins_blank_counts() -> None:
    assert left(read({OVERLAY_DATA: b"\0" * 64}, private=False, codes=b"")) == {"overlays": {"Overlays"}}


# --- what is left -----------------------------------------------------------------------------------------------------


def test_a_mark_explains_dummies_and_nothing_else() -> None:
    values = {BIRTH_DATE: b"19230405", DEVICE_SERIAL: b"4711", OTHER_IDS: b"8A12"}
    unmarked = left(read(values, private=False, codes=b""))
    assert unmarked.keys() == {"patient", "device"}
    assert left(read({**values, REMOVED: b"YES "}, private=False, codes=b"")) == {"patient": {"Other Patient IDs"}}
    assert left(read({**values, REMOVED: b"NO"}, private=False, codes=b"")) == unmarked


@pytest.mark.parametrize(
    ("option", "rule", "kept"),
    [
        ("113105", "descriptions-kept", {"StudyDescription": "brain"}),
        ("113106", "dates-kept", {"StudyDate": "20240229"}),
        ("113107", "dates-kept", {"StudyDate": "20240229"}),
        ("113109", "identifiers-left", {"GantryID": "G1"}),
        ("113110", "original-uids", {"SeriesInstanceUID": "1.2.840.113619.2.55.3.4711"}),
        ("113112", "identifiers-left", {"InstitutionAddress": "Kirchweg 1"}),
    ],
)
def test_a_declared_option_explains_its_kind(option: str, rule: str, kept: dict[str, str], tmp_path: Path) -> None:
    assert [each.id for each in inspected(tmp_path / "without", marked(**kept)).findings] == [rule]
    assert inspected(tmp_path / "with", marked(option, **kept)).findings == ()


def test_overlays_and_private_attributes(tmp_path: Path) -> None:
    for place, options in (("without", ()), ("with", ("113103", "113111"))):
        images = marked(*options)
        for image in images:
            image.add_new(OVERLAY_COMMENTS, "LT", "see the arrow")
            image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"SV10")
        found = [each.id for each in inspected(tmp_path / place, images).findings]
        assert found == ([] if options else ["descriptions-kept", "private-attributes-kept"])


def test_an_ordinary_export_gets_one_sentence_without_a_value(tmp_path: Path) -> None:
    inventory = inspected(tmp_path, [*classic("CT", **IDENTIFIED), enhanced("MR", **IDENTIFIED), *marked()])
    (told,) = inventory.findings
    assert told.id == "not-deidentified"
    assert told.message.startswith("2 of 3 image volume(s)")
    assert told.message.endswith("dates, descriptions, device, institution, orders, patient, staff.")
    assert [volume.findings for volume in inventory.volumes] == [()] * 3
    assert not [value for value in VALUES if value in repr(inventory)]


def test_one_image_that_was_forgotten_is_found(tmp_path: Path) -> None:
    images = marked()
    images[3].OtherPatientIDs = "8A12"
    (told,) = inspected(tmp_path, images).findings
    assert (told.id, told.severity) == ("identifiers-left", "warning")
    assert told.message == "1 volume(s) that are marked as de-identified still hold Other Patient IDs."


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    many = {"PatientAddress": "a", "OtherPatientIDs": "b", "MilitaryRank": "c", "AdmissionID": "d", "GantryID": "e"}
    (told,) = inspected(tmp_path, marked(**many)).findings
    assert told.message.endswith("Admission ID, Gantry ID, Military Rank, Other Patient IDs and 1 more.")


def test_other_objects_are_not_counted(tmp_path: Path) -> None:
    inventory = inspected(tmp_path, classic(SOPClassUID=SecondaryCaptureImageStorage, **IDENTIFIED))
    assert inventory.findings == ()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_is_read_alike(syntax: str, tmp_path: Path) -> None:
    write(tmp_path, marked("113106", StudyDate="20240229", PatientAddress="Kirchweg 1"), syntax)
    (told,) = scan(tmp_path, Pseudonyms(b"k" * 32)).findings
    assert (told.id, "Patient's Address" in told.message) == ("identifiers-left", True)


# --- where the site demands it ----------------------------------------------------------------------------------------


def test_an_identified_volume_is_refused_where_the_site_demands_it(tmp_path: Path) -> None:
    inventory = inspected(tmp_path, [*classic(**IDENTIFIED), *marked()], require_deidentified=True)
    verdicts = {volume.verdict: volume for volume in inventory.volumes}
    assert verdicts["accepted"].findings == ()
    (problem,) = verdicts["refused"].findings
    assert (problem.id, problem.severity, problem.where) == ("direct-identifiers", "error", verdicts["refused"].id)
    assert "Accession Number, Institution Name, Patient's Address, Patient's Birth Date and 3 more" in problem.message
    assert not [value for value in VALUES if value in repr(inventory)]


@pytest.mark.parametrize(
    ("attributes", "verdict"),
    [
        ({}, "accepted"),
        ({"OtherPatientIDs": "8A12"}, "refused"),
        ({"StudyDate": "20240229", "StudyDescription": "brain"}, "accepted"),
        ({"PatientIdentityRemoved": "NO"}, "refused"),
        # Nothing but the id that patients are counted by: a tool emptied the rest and did not say so.
        (
            {
                **dict.fromkeys(("PatientName", "PatientBirthDate", "AccessionNumber"), ""),
                **dict.fromkeys(("PatientIdentityRemoved", "DeidentificationMethod")),
            },
            "accepted",
        ),
    ],
)
def test_what_counts_as_direct(attributes: dict[str, Any], verdict: str, tmp_path: Path) -> None:
    (volume,) = inspected(tmp_path, classic(**attributes), require_deidentified=True).volumes
    assert volume.verdict == verdict


# --- text in the pixels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_type", "scanner", "description", "rows", "what"),
    [
        (("DERIVED", "SECONDARY", "SCREEN SAVE"), "GE MEDICAL SYSTEMS LightSpeed VCT", "", 512, "a screen save"),
        (("ORIGINAL", "PRIMARY", "AXIAL"), "GE MEDICAL SYSTEMS Revolution", "Dose Report", 512, "a dose report"),
        (("DERIVED", "SECONDARY", "DOSE"), "Philips Brilliance 64", "", 512, "a dose report"),
        (("DERIVED", "SECONDARY", "OTHER"), "SIEMENS SOMATOM Force", "Patientenprotokoll", 860, "a dose report"),
        (("DERIVED", "SECONDARY", "VOLREN"), "GE MEDICAL SYSTEMS", "", 512, "a rendering"),
        (("ORIGINAL", "PRIMARY", "AXIAL"), "Philips Brilliance 64", "LOW DOSE HEAD", 512, ""),
        (("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"), "SIEMENS SOMATOM Force", "Head 5.0", 512, ""),
        (("DERIVED", "SECONDARY", "AXIAL"), "SIEMENS SOMATOM Force", "Head 1.0 MPR", 512, ""),
    ],
)
def test_images_on_which_devices_write(
    image_type: tuple[str, ...], scanner: str, description: str, rows: int, what: str
) -> None:
    assert shows_text(image_type, scanner, description, rows) == what


def test_a_volume_with_a_dose_report_is_refused(tmp_path: Path) -> None:
    (volume,) = inspected(tmp_path, classic("CT", SeriesDescription="Dose Report")).volumes
    assert [each.id for each in volume.findings] == ["text-in-pixels"]
    assert volume.verdict == "refused"


# --- real exports -----------------------------------------------------------------------------------------------------


def test_a_real_deidentified_export_is_taken_where_the_site_demands_it(real_data: Path) -> None:
    inventory = scan(real_data / "deident", Pseudonyms(b"k" * 32), require_deidentified=True)
    assert {volume.verdict for volume in inventory.volumes} == {"accepted"}
    # It keeps SeriesDescription, and its codes do not say so; dummies stand for accession number, institution, device.
    assert [each.id for each in inventory.findings] == ["descriptions-kept"]


def test_a_real_export_is_told_as_identified_once(real_data: Path) -> None:
    inventory = scan(real_data / "ct_philips", Pseudonyms(b"k" * 32))
    assert [each.id for each in inventory.findings if each.id != "not-dicom"] == ["media-directory", "not-deidentified"]
