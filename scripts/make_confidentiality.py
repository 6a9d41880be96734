"""Makes confidentiality.csv of fedsite.dicom.header: table E.1-1 of DICOM PS3.15, and what kind each attribute is of.

    pip download --no-deps dicom-anonymizer==2.1.0 dicom-standard==0.1.0
    python scripts/make_confidentiality.py dicom_anonymizer-*.whl dicom_standard-*.whl

The first wheel (BSD-3-Clause, Copyright 2020 Kitware Europe) carries the attributes and actions of the Basic Profile,
edition 2026c; the second (MIT, Innolitics) the columns of the options. Only the table's facts are taken. The kind
follows the standard where an option names the attribute (Retain Institution Identity, Clean Descriptors ...), its
value representation where that is a date or a time, else its name, by the patterns below.
"""

import argparse
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

from pydicom.datadict import dictionary_VR

from fedsite.files import write_atomically

EDITION = "2026c"
ACTIONS = f"dicomanonymizer/dicom_anonymization_databases/dicomfields_{EDITION}.py"
OPTIONS = "confidentiality_profile_attributes.json"
OUT = Path(__file__).parents[1] / "fedsite" / "dicom" / "header" / "confidentiality.csv"

# Columns of the options, and the kind of what they are about; the first that applies.
KIND_OF_OPTION = {
    "rtnUIDsOpt": "uids",
    "rtnInstIdOpt": "institution",
    "rtnDevIdOpt": "device",
    "rtnPatCharsOpt": "characteristics",
    "rtnLongFullDatesOpt": "dates",
    "cleanDescOpt": "descriptions",
}
# Where no option names an attribute, and it is no date: the first pattern that its name fits.
KIND_OF_NAME = {
    r"\b(Ethnic|Gender|Pronouns?|Sex)\b": "characteristics",
    r"DateTime": "dates",
    # What these sequences hold is what was there before it was replaced.
    r"(Modified|Original|Nonconforming).* Attributes Sequence|Nonconforming": "patient",
    r"Patient(?!.*(Setup|Preparation))|Clinical Trial Subject": "patient",
    r"\b(Description|Comments?|Diagnos[ie]s|Text|Label)\b": "descriptions",
    r"Accession|Admission ID|Service Episode|Order Number|Procedure ID|Procedure Step ID|Requesting Service": "orders",
    r"\b(AE|AE Title|Device ID|Station|Network ID)$": "device",
    r"Location|Organization": "institution",
    r"Physician|Operator|Performer|Observer|Person|Creator|Interpreter|Approver|Author|Reviewer|Recorder": "staff",
    r"Transcriber|Distribution|Recipients|Order Enter|Callback|Owner|Participant|Verbal Source|Telephone": "staff",
}
DATE_REPRESENTATIONS = {"DA", "TM", "DT"}
PATIENT_GROUP = 0x0010


def main() -> None:
    """Reads the two wheels, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actions", type=Path, help="the wheel of dicom-anonymizer")
    parser.add_argument("options", type=Path, help="the wheel of dicom-standard")
    arguments = parser.parse_args()
    options = dict(read_options(arguments.options))
    lines = [f"# DICOM PS3.15 {EDITION}, table E.1-1, Basic Profile; made by scripts/make_confidentiality.py"]
    rows = sorted(read_actions(arguments.actions))
    for tag, action, name in rows:
        lines.append(f"{tag:08X},{action},{kind(tag, action, name, options.get(tag, ()))},{name}")
    write_atomically(OUT, "\n".join(lines).encode() + b"\n", mode=0o644)
    assert len(list(csv.reader(lines[1:]))) == len(rows)


def read_actions(wheel: Path) -> Iterator[tuple[int, str, str]]:
    """Tag, action and name of every attribute; curves, overlays and private attributes go by group, not by tag."""
    action = ""
    for line in ZipFile(wheel).read(ACTIONS).decode().splitlines():
        if heading := re.match(r"([A-Z_]+)_TAGS = \[", line):
            action = heading[1].replace("_STAR", "*").replace("_", "/")
        elif row := re.match(r"\s+\(0x(\w{4}), 0x(\w{4})\),  # (.+)", line):
            yield int(row[1] + row[2], 16), action, re.sub(r",|\(see.*\)", "", row[3])


def read_options(wheel: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """For each tag the options that treat its attribute differently."""
    archive = ZipFile(wheel)
    table = next(name for name in archive.namelist() if name.endswith(OPTIONS))
    for row in json.loads(archive.read(table)):
        if re.fullmatch(r"[0-9a-f]{8}", row["id"]):
            yield int(row["id"], 16), tuple(option for option in KIND_OF_OPTION if option in row)


def kind(tag: int, action: str, name: str, options: tuple[str, ...]) -> str:
    """What kind of thing an attribute tells."""
    if options:
        return KIND_OF_OPTION[options[0]]
    if action.startswith("U"):
        return "uids"
    representation = value_representation(tag)
    if representation in DATE_REPRESENTATIONS and tag >> 16 != PATIENT_GROUP:
        return "dates"
    by_name = next((what for pattern, what in KIND_OF_NAME.items() if re.search(pattern, name)), "")
    if tag >> 16 == PATIENT_GROUP and by_name != "characteristics":
        return "patient"
    return by_name or ("staff" if representation == "PN" else "other")


def value_representation(tag: int) -> str:
    """As pydicom's dictionary has it; "" for attributes that are younger."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


if __name__ == "__main__":
    main()
