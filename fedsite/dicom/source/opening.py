"""Opening what a scan found: a plain file, or a member of a zip archive, which is never unpacked to disk."""

import os
import zipfile
from functools import lru_cache
from typing import BinaryIO, cast

# Archives kept open, so that their directory is parsed once and not for every member.
OPEN_ARCHIVES = 4


def open_file(path: str, member: str = "") -> BinaryIO:
    """Opens a file, or a member of an archive, for reading from its beginning. It can seek.

    In a compressed member seeking forward inflates what it passes, and seeking backward begins anew: read in order.
    No more is inflated than the archive's directory declares. Raises OSError; zipfile.BadZipFile, zlib.error or
    NotImplementedError on a damaged archive, RuntimeError on an encrypted member, KeyError where there is no such one.
    """
    if not member:
        return open(path, "rb")
    return cast("BinaryIO", archive(path).open(member))


def archive(path: str) -> zipfile.ZipFile:
    """A zip archive with its directory parsed. It is shared and stays open: do not close it. May be used by threads."""
    status = os.stat(path)
    # A forked process must not share the parent's place in the file.
    return _archive(path, status.st_size, status.st_mtime_ns, os.getpid())


@lru_cache(maxsize=OPEN_ARCHIVES)
def _archive(path: str, _size: int, _changed: int, _process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
