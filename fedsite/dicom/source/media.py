"""DICOMDIR: the files that a medium's directory names (PS3.10 section 8, PS3.3 annex F)."""

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

import pydicom
from pydicom.multival import MultiValue


def referenced_files(path: str) -> tuple[dict[str, set[str]], int]:
    """The files that a DICOMDIR names, by folder, and how many of them are not there.

    File IDs are in capitals, as on a CD; how the system that copied it spells them is its own affair. They lead
    nowhere but below the DICOMDIR's folder. Raises whatever pydicom raises on a damaged one.
    """
    top = os.path.dirname(path)
    found: dict[str, set[str]] = defaultdict(set)
    missing = 0
    for file_id in _file_ids(path):
        folder, name = top, ""
        for part in file_id:
            folder = os.path.join(folder, name) if name else top
            name = _listing(folder).get(_spelling(part), "")
            if not name:
                break
        if name:
            found[folder].add(name)
        else:
            missing += 1
    _listing.cache_clear()
    return found, missing


def _file_ids(path: str) -> Iterator[list[str]]:
    dataset = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
    for record in dataset.get("DirectoryRecordSequence") or ():
        file_id = record.get("ReferencedFileID")
        if file_id:
            yield [str(part) for part in file_id] if isinstance(file_id, MultiValue) else [str(file_id)]


@lru_cache(maxsize=1024)
def _listing(folder: str) -> dict[str, str]:
    """The names in a folder, by how a File ID may spell them."""
    try:
        return {_spelling(name): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}


def _spelling(name: str) -> str:
    """Without case, and without the version and the full stop that ISO 9660 ends names with."""
    return name.partition(";")[0].rstrip(".").casefold()
