"""Zip archives: which members are read, within bounds that keep a malicious or broken archive from harm.

Nothing is unpacked to disk, so no member's name can lead anywhere; one that tries to is a finding all the same. No
more of a member is inflated than its directory entry declares (`opening`), and the sum of these is bounded here.
Formats after PKWARE's APPNOTE 6.3.
"""

import os
import struct
import zipfile
from collections import Counter
from typing import BinaryIO

from fedsite.dicom.source.opening import archive

MAX_MEMBERS = 250_000
MAX_BYTES = 1 << 38
# An archive of blank images shrinks a thousandfold and harms nobody: the ratio counts for large ones only.
MAX_RATIO, RATIO_COUNTS_FROM = 100, 1 << 30
MAX_DIRECTORY_BYTES = 1 << 25

METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
DAMAGE = (zipfile.BadZipFile, EOFError, UnicodeDecodeError, struct.error, ValueError)

_FIRST_MEMBER, _EMPTY = b"PK\x03\x04", b"PK\x05\x06"
_ENCRYPTED = 0x1
# The end of the central directory: signature, six fields, length of the comment that follows. In its zip64 form it
# is found by a locator before it.
_END, _END_64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_LONGEST_COMMENT = 1 << 16


def is_archive(start: bytes) -> bool:
    """Whether a file that begins like this is a zip archive."""
    return start.startswith((_FIRST_MEMBER, _EMPTY))


def members(path: str) -> tuple[list[str], Counter[str]]:
    """The names of the members that may be read, and the rules that the archive breaks, each with its count.

    An archive that is damaged or out of bounds gives no member at all. Raises OSError.
    """
    broken: Counter[str] = Counter()
    try:
        if _directory_bytes(path) > MAX_DIRECTORY_BYTES:
            return [], Counter(["archive-too-large"])
        entries = [entry for entry in archive(path).infolist() if not entry.is_dir()]
    except (*DAMAGE, NotImplementedError):
        return [], Counter(["damaged-archive"])
    unpacked = sum(entry.file_size for entry in entries)
    ratio = unpacked / max(os.path.getsize(path), 1)
    if len(entries) > MAX_MEMBERS or unpacked > MAX_BYTES or (unpacked > RATIO_COUNTS_FROM and ratio > MAX_RATIO):
        return [], Counter(["archive-too-large"])
    names = Counter(entry.filename for entry in entries)
    readable = []
    for entry in entries:
        rule = _broken_by(entry, names)
        if rule:
            broken[rule] += 1
        else:
            readable.append(entry.filename)
    return readable, broken


def _broken_by(entry: zipfile.ZipInfo, names: Counter[str]) -> str:
    """The rule that a member breaks, or ""."""
    # As it is written: the library cuts a name at a zero byte and turns its separators.
    parts = entry.orig_filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in entry.orig_filename or names[entry.filename] > 1:
        return "archive-names"
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted-archive"
    return "" if entry.compress_type in METHODS else "archive-method"


def _directory_bytes(path: str) -> int:
    """The length of the central directory, before anything of it is parsed."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END.size - _LONGEST_COMMENT))
        tail = file.read()
        place = tail.rfind(_EMPTY)
        if place < 0:
            raise zipfile.BadZipFile
        length: int = _END.unpack_from(tail, place)[5]
        return length if length != 0xFFFFFFFF else _directory_bytes_64(file, tail[:place])


def _directory_bytes_64(file: BinaryIO, before: bytes) -> int:
    _, _, place, _ = _LOCATOR.unpack(before[-_LOCATOR.size :])
    file.seek(place)
    length: int = _END_64.unpack(file.read(_END_64.size))[8]
    return length
