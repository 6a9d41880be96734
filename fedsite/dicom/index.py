"""What earlier scans read, on disk: a file whose path, size and time of change are the same is not read again.

One SQLite file with a row for each group of files (`walk.Group`). It holds identifiers, so nothing in it is in the
clear (law 8): what a row is called is an HMAC, what it holds is sealed by AES-256-GCM, both under keys of the site.
It is a cache: whatever is damaged, of another version or locked counts as unknown, and is read and written anew.
Known limit: a file that was changed and kept both its size and its time of change is taken for what it was.
"""

import hashlib
import hmac
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedsite.dicom import records
from fedsite.dicom.header.frames import Read
from fedsite.dicom.source.walk import Group, Place
from fedsite.errors import CannotWrite
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, make_folder

# Size in bytes and time of change in ns of the file, or of the archive that it is a member of.
Stamp = tuple[int, int]
Entries = dict[Place, tuple[Stamp, Read]]

BUSY_SECONDS = 5
# A file changed this recently may change once more within the clock's tick.
SETTLED_NS = 2_000_000_000
# A source that nobody scanned for so long is forgotten.
FORGOTTEN_DAYS = 365

# What may be otherwise next time without any change to the file.
_PASSING = frozenset({"missing-file", "unreadable-file"})

_NONCE_BYTES = 12
_OF_THE_MOMENT = (
    *("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED", "SQLITE_NOMEM"),
    *("SQLITE_PERM", "SQLITE_PROTOCOL", "SQLITE_READONLY"),
)
_TABLES = """
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table if not exists headers (name blob primary key, source blob not null, content blob not null);
    create table if not exists sources (name blob primary key, day integer not null);
    create index if not exists by_source on headers (source);
"""


@dataclass(frozen=True)
class Index:
    """The index of a site: where it lies, and the key (32 bytes) that all its own keys are derived from."""

    path: Path
    key: bytes = field(repr=False)

    @contextmanager
    def of(self, source: Path) -> Iterator["Memory"]:
        """What is remembered of a source. After a scan that came to its end, what it did not meet is forgotten."""
        memory = Memory(self, source)
        try:
            yield memory
            memory.forget()
        finally:
            memory.close()


class Memory:
    """The part of an index that concerns one source. Nothing here raises: what does not work is not remembered."""

    def __init__(self, index: Index, source: Path) -> None:
        self._path = index.path
        self._names = hmac.digest(index.key, b"names", "sha256")
        self._seal = AESGCM(hmac.digest(index.key, b"contents", "sha256"))
        self._source = self._name(os.path.abspath(source))  # links are not followed: as `walk.tree` names it
        self._met: set[bytes] = set()
        self._database = _connect(index.path)

    def recall(self, group: Group) -> Entries:
        """What is known of the files of a group, perhaps also of files that were in it before."""
        name = self._name_of(group)
        self._met.add(name)
        for (content,) in self._do("select content from headers where name = ?", name):
            with suppress(InvalidTag, ValueError, LookupError, TypeError):
                known = json.loads(
                    self._seal.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], name + _version())
                )
                places = replace(group, names=tuple(known["names"])).places
                reads = records.unpack(known["reads"], places)
                return dict(zip(places, zip(map(tuple, known["stamps"]), reads, strict=True), strict=True))
        return {}

    def keep(self, group: Group, entries: Mapping[Place, tuple[Stamp | None, Read]]) -> None:
        """Remembers the files of a group, but for those that may give something else next time."""
        settled = time.time_ns() - SETTLED_NS
        lasting = [
            (name, stamp, read)
            for name, (stamp, read) in zip(group.names, map(entries.__getitem__, group.places), strict=True)
            if stamp is not None and stamp[1] < settled and not (isinstance(read, str) and read in _PASSING)
        ]
        known = {
            "names": [name for name, _, _ in lasting],
            "stamps": [stamp for _, stamp, _ in lasting],
            "reads": records.pack(read for _, _, read in lasting),
        }
        name, nonce = self._name_of(group), os.urandom(_NONCE_BYTES)
        content = self._seal.encrypt(nonce, json.dumps(known, separators=(",", ":")).encode(), name + _version())
        self._do("insert or replace into headers values (?, ?, ?)", name, self._source, nonce + content)

    def forget(self) -> None:
        """Forgets the groups of this source that were not met, and sources that nobody asks for any more."""
        gone = [name for (name,) in self._do("select name from headers where source = ?", self._source)]
        for name in gone:
            if name not in self._met:
                self._do("delete from headers where name = ?", name)
        today = int(time.time() // 86_400)
        self._do("insert or replace into sources values (?, ?)", self._source, today)
        for (source,) in self._do("select name from sources where day < ?", today - FORGOTTEN_DAYS):
            self._do("delete from headers where source = ?", source)
            self._do("delete from sources where name = ?", source)

    def close(self) -> None:
        """Lets go of the file."""
        if self._database:
            self._database.close()
            self._database = None

    def _do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, values).fetchall() if self._database else []
        except sqlite3.Error as error:
            self.close()
            if _is_damage(error):
                _remove(self._path)
            return []

    def _name_of(self, group: Group) -> bytes:
        return self._name(group.container, group.after, *(["archive"] if group.is_archive else []))

    def _name(self, *parts: str) -> bytes:
        return hmac.digest(self._names, json.dumps(parts).encode(), "sha256")


def stamp(place: Place) -> Stamp | None:
    """Size and time of change of a file; None where there is none."""
    try:
        status = os.stat(place[0])
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@cache
def _version() -> bytes:
    """Changes whenever what a file gives may change: a digest of all that reads headers."""
    digest = hashlib.sha256(pydicom.__version__.encode())
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.suffix in (".py", ".csv"):
            digest.update(path.read_bytes())
    return digest.digest()


def _connect(path: Path) -> sqlite3.Connection | None:
    """Opens the index, makes it where there is none, and makes it anew where it is damaged."""
    for _ in range(2):
        try:
            make_folder(path.parent, PRIVATE_FOLDER)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE))  # SQLite would leave the mode to the umask
            return _with_tables(sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS))
        except sqlite3.Error as error:
            if not _is_damage(error):
                return None
            _remove(path)
        except (OSError, CannotWrite):
            return None
    return None


def _with_tables(database: sqlite3.Connection) -> sqlite3.Connection:
    try:
        database.executescript(_TABLES)
        for table, columns in (("headers", "name, source, content"), ("sources", "name, day")):
            database.execute(f"select {columns} from {table} limit 1")  # noqa: S608 - names of our own, from the line above
    except sqlite3.Error:
        database.close()
        raise
    return database


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is at fault, and not the moment or the disk."""
    # Errors of the Python module itself have no name of SQLite's.
    return not getattr(error, "sqlite_errorname", "").startswith(_OF_THE_MOMENT)


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + ending).unlink()
