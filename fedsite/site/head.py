"""`records.head`: where the two chains of `state.db` end, remembered outside of it.

A chain cannot tell that its end is gone. This file is written after each change and never runs ahead of the database:
a database that knows less than it (an older copy, one without its write-ahead log, one that was cut) has lost records.
Whoever can write in the state folder can write both: against such hands only what lies elsewhere helps, an export's
signed checkpoint and the server's receipts.
"""

import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import Path

from fedsite.errors import RecordsDamaged
from fedsite.files import PRIVATE_FILE, cannot_write, write_atomically
from fedsite.site.chain import CHAINS, Chain, Head

NAME = "records.head"
_LINE = r" ([0-9]{20}) ([0-9a-f]{64})\n"
_CONTENT = re.compile("".join(f"{chain}{_LINE}" for chain in CHAINS))


def create(folder: Path, heads: Mapping[Chain, Head]) -> None:
    """Begins to remember where the chains end. Raises CannotWrite."""
    write_atomically(folder / NAME, _content(heads), PRIVATE_FILE)


def write(folder: Path, heads: Mapping[Chain, Head]) -> None:
    """Remembers where the chains end. Raises CannotWrite.

    In place and without fsync, so that it costs nothing beside the database's own: what a power cut leaves is one of
    the last contents, all of one size and within one sector; and one that stayed behind harms nothing.
    """
    try:
        descriptor = os.open(folder / NAME, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.pwrite(descriptor, _content(heads), 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(folder / NAME, error) from error


def read(folder: Path, mend: str) -> dict[Chain, Head]:
    """Where the chains ended at last. Raises RecordsDamaged when the file is gone, or not as it was written."""
    try:
        with (folder / NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            content = file.read(1000).decode("ascii")
    except FileNotFoundError as error:
        told = f"{NAME} is gone: nobody can tell whether the records have lost their end."
        raise RecordsDamaged(told, mend) from error
    except (OSError, ValueError):
        content = ""
    found = _CONTENT.fullmatch(content)
    if found is None:
        raise RecordsDamaged(f"{NAME} was altered.", mend)
    numbers, hashes = found.groups()[::2], found.groups()[1::2]
    return {chain: Head(int(number), digest) for chain, number, digest in zip(CHAINS, numbers, hashes, strict=True)}


def _content(heads: Mapping[Chain, Head]) -> bytes:
    return "".join(f"{chain} {heads[chain].sequence:020d} {heads[chain].hash}\n" for chain in CHAINS).encode("ascii")
