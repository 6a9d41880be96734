"""What headers still tell about a patient, after the standard's profile for removing it.

The measure is the Basic Application Level Confidentiality Profile with its options: DICOM PS3.15, edition 2026c, table
E.1-1, kept in `confidentiality.csv` (`scripts/make_confidentiality.py` makes it). Only presence counts: no value goes
into a finding. What stands inside sequences is not looked at (the table names the sequences that go as a whole), and
of what the pixels show only what header and device let expect.

An export that nobody calls de-identified is ordinary: a scan says so in one sentence. What is left in one that calls
itself de-identified is told by kind. Volumes are refused only where the site's policy demands de-identified input.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

from pydicom.datadict import keyword_for_tag

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.model import Instance, Traces, Volume

DIRECT = frozenset({"patient", "staff", "institution", "orders", "device"})
INDIRECT = frozenset({"dates", "descriptions", "overlays", "private"})

# PatientID and its issuer: the promise counts patients by them, and a pseudonym looks like any other number.
COUNTED_BY = frozenset({0x00100020, 0x00100021})

# Codes of DeidentificationMethodCodeSequence (PS3.16 CID 7050) that allow a kind to stay, or say that it was cleaned.
OPTIONS = {
    "113103": "overlays",
    "113105": "descriptions",
    "113106": "dates",
    "113107": "dates",
    "113109": "device",
    "113110": "uids",
    "113111": "private",
    "113112": "institution",
}

# Where scanners take their UIDs from; tools that replace UIDs use roots of their own, or 2.25.
SCANNER_ROOTS = (
    "1.3.12.2.1107.5.",  # Siemens
    "1.2.840.113619.2.",  # GE
    "1.3.46.670589.11.",  # Philips MR
    "1.3.46.670589.33.",  # Philips CT
    "1.2.392.200036.9116.",  # Canon, Toshiba
    "1.2.156.112605.",  # United Imaging
)

# Values that name nobody, and the signs around a value that say nothing.
_SIGNS = b" \0^-*=_.,0X"
_NOBODY = frozenset(
    word.encode().strip(_SIGNS)
    for word in (
        *("", "anon", "anonymous", "anonymized", "anonymised", "deidentified", "de-identified", "pseudonymized"),
        *("removed", "none", "unknown", "n/a", "na", "19000101", "00010101"),
    )
)

# OverlayData, OverlayComments and CurveData of each of their repeating groups.
_DRAWINGS = frozenset(
    group + offset << 16 | element
    for offset in range(0, 0x20, 2)
    for group, element in ((0x6000, 0x3000), (0x6000, 0x4000), (0x5000, 0x3000))
)
_SHOWN = 4


@dataclass(frozen=True)
class Attribute:
    """A row of the table: `action` as in its column Basic Prof., `kind` what the attribute tells about."""

    action: str
    kind: str
    name: str

    @property
    def may_be_dummy(self) -> bool:
        """Whether a value may stand there after the profile was applied (D, and Z of what every object must have)."""
        return "D" in self.action or ("Z" in self.action and self.kind in DIRECT)

    @property
    def tells(self) -> bool:
        """Whether a value says anything: that of a date or a text which may be a dummy does not."""
        return self.kind in DIRECT or (self.kind in INDIRECT and not self.may_be_dummy)


def _read_table() -> dict[int, Attribute]:
    lines = files("fedsite.dicom.header").joinpath("confidentiality.csv").read_text("utf-8").splitlines()
    rows = (line.split(",", 3) for line in lines if not line.startswith("#"))
    table = {int(tag, 16): Attribute(action, kind, name) for tag, action, kind, name in rows}
    table |= dict.fromkeys(_DRAWINGS, Attribute("X", "overlays", "Overlays"))
    return {tag: row for tag, row in table.items() if row.tells and tag not in COUNTED_BY}


TABLE = _read_table()
TAGS = frozenset(TABLE)
_SIDECAR = {"PatientID"} | {
    keyword_for_tag(tag) for tag, row in TABLE.items() if row.kind in DIRECT - {"institution", "device"}
}
SEX, BIRTH_DATE, DESCRIPTION = 0x00100040, 0x00100030, 0x0008103E
_REMOVED, _METHODS = 0x00120062, (0x00120063, 0x00120064)
# What a header has to be asked for.
NOTED = TAGS | {SEX, BIRTH_DATE, DESCRIPTION, _REMOVED, *_METHODS}
_CODE = re.compile(rb"1131\d\d")


def read(values: Mapping[int, bytes], private: bool, codes: bytes) -> Traces:
    """What a header keeps: from how the values begin that are noted, and the whole DeidentificationMethodCodeSequence.

    `private` says whether it has private attributes.
    """
    kept = frozenset([tag for tag, value in values.items() if tag in TAGS and _holds_something(tag, value)])
    removed = values.get(_REMOVED, b"").strip() == b"YES"
    stated = any(map(values.get, _METHODS))
    return _traces(kept, private, removed, stated, frozenset(_CODE.findall(codes)))


@lru_cache(maxsize=4096)
def _holds_something(tag: int, value: bytes) -> bool:
    """Whether a value is more than blanks and words for nobody; drawings begin with blanks."""
    return bool(value) and (tag in _DRAWINGS or value.strip(_SIGNS).lower() not in _NOBODY)


@lru_cache(maxsize=1024)
def _traces(kept: frozenset[int], private: bool, removed: bool, stated: bool, options: frozenset[bytes]) -> Traces:
    """The images of a series have it in common: memory holds it once."""
    return Traces(kept, private, removed, stated, frozenset(code.decode() for code in options))


@lru_cache(maxsize=1024)
def left(found: Traces) -> Mapping[str, frozenset[str]]:
    """The names of the attributes that the profile would have removed or emptied, by kind.

    What a declared option retains is left out, and where the header says that the identity was removed, so is what
    may hold a dummy since.
    """
    allowed = {OPTIONS[code] for code in found.options if code in OPTIONS}
    names: dict[str, set[str]] = {}
    for tag in found.kept:
        row = TABLE[tag]
        if row.kind not in allowed and not (found.removed and row.may_be_dummy):
            names.setdefault(row.kind, set()).add(row.name)
    if found.private and "private" not in allowed:
        names["private"] = {"private attributes"}
    return {kind: frozenset(those) for kind, those in names.items()}


def refuse_identified(volumes: Iterable[Volume]) -> list[Volume]:
    """The volumes, those refused that hold direct identifiers: for a site that takes de-identified input only."""
    return [_refused(volume) for volume in volumes]


def _refused(volume: Volume) -> Volume:
    found = set() if volume.frames[0].instance.refusal else _names(_traces_of(volume), DIRECT)
    if not found:
        return volume
    problem = finding("direct-identifiers", volume.id, what=_shown(found))
    return replace(volume, verdict="refused", findings=(*volume.findings, problem))


def told_by(sidecar: Mapping[str, object]) -> str:
    """The direct identifiers in a BIDS sidecar, which names attributes by DICOM's keywords; "" where there are none.

    Institution and device do not count: BIDS asks for them.
    """
    found = [name for name in _SIDECAR & sidecar.keys() if _holds_something(0, str(sidecar[name] or "").encode())]
    return _shown(found) if found else ""


def remarks(volumes: Iterable[Volume]) -> list[Finding]:
    """What a whole scan shows, each rule once with the number of volumes that it concerns."""
    images = [(volume, _traces_of(volume)) for volume in volumes if not volume.frames[0].instance.refusal]
    unmarked = [found for _, found in images if not all(each.removed for each in found)]
    findings = [_unmarked(unmarked, len(images))] if unmarked else []
    marked = [(volume, found) for volume, found in images if all(each.removed for each in found)]
    if unstated := sum(1 for _, found in marked if not all(each.stated for each in found)):
        findings.append(finding("deidentification-unstated", count=unstated))
    for rule, kinds in _LEFT:
        concerned = [names for _, found in marked if (names := _names(found, kinds))]
        if concerned:
            what = _shown(frozenset().union(*concerned))
            findings.append(finding(rule, count=len(concerned), what=what))
    if original := sum(1 for volume, found in marked if _has_original_uids(volume.frames[0].instance, found)):
        findings.append(finding("original-uids", count=original))
    return findings


_LEFT = (
    ("identifiers-left", DIRECT),
    ("dates-kept", frozenset({"dates"})),
    ("descriptions-kept", frozenset({"descriptions", "overlays"})),
    ("private-attributes-kept", frozenset({"private"})),
)


def _unmarked(unmarked: Sequence[Collection[Traces]], images: int) -> Finding:
    found = set().union(*unmarked)
    kinds = sorted({kind for each in found for kind in left(each)})
    return finding("not-deidentified", count=len(unmarked), images=images, kinds=", ".join(kinds) or "nothing else")


def _traces_of(volume: Volume) -> set[Traces]:
    return {frame.instance.traces for frame in volume.frames}


def _names(found: Iterable[Traces], kinds: Collection[str]) -> frozenset[str]:
    return frozenset(name for each in found for kind, names in left(each).items() if kind in kinds for name in names)


def _shown(names: Collection[str]) -> str:
    first = sorted(names)[:_SHOWN]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")


def _has_original_uids(instance: Instance, found: Iterable[Traces]) -> bool:
    if any("uids" in {OPTIONS.get(code) for code in each.options} for each in found):
        return False
    return any(uid.startswith(SCANNER_ROOTS) for uid in (instance.study, instance.series, instance.sop_instance))


@dataclass(frozen=True)
class _TextRule:
    """Images on which devices write text: patterns for ImageType, scanner (both in capitals) and description."""

    what: str
    image_type: str = ""
    scanner: str = ""
    description: str = ""
    rows: int = 0

    def fits(self, image_type: str, scanner: str, description: str, rows: int) -> bool:
        """Whether an image is of this sort."""
        pairs = ((self.image_type, image_type), (self.scanner, scanner), (self.description, description))
        return all(re.search(pattern, text) for pattern, text in pairs) and self.rows in (0, rows)


# From the filters of deid (https://github.com/pydicom/deid, deid.dicom), which has them from CTP (the RSNA's Clinical
# Trial Processor) and Stanford: those of CT and MR images that no clean series fits. Ultrasound, secondary captures
# and scans of paper are refused by their SOP class already, localizers by their image type.
_TEXT_RULES = (
    _TextRule("a screen save", image_type=r"SCREEN ?SAVE"),
    _TextRule("a report", image_type=r"REPORTDATA|DEMOGRAPHICDATA"),
    _TextRule("a rendering", image_type=r"VOLREN|VXTL STATE"),
    _TextRule("a dose report", description=r"DOSE REPORT|PATIENT PROTOCOL|PACS NOMINATION FORM"),
    _TextRule("a dose report", image_type=r"(^|\\)DOSE(_INFO)?(\\|$)", scanner="PHILIPS"),
    _TextRule("a dose report", image_type="SECONDARY", scanner="SIEMENS", rows=860),
    _TextRule("a worksheet", scanner="VITREA|VITAL IMAGES", description="REPORT"),
)


@lru_cache(maxsize=1024)
def shows_text(image_type: tuple[str, ...], scanner: str, description: str, rows: int) -> str:
    """What an image must be taken for on which a device writes text, or ""."""
    texts = "\\".join(image_type), scanner.upper(), description.upper()
    return next((rule.what for rule in _TEXT_RULES if rule.fits(*texts, rows)), "")
