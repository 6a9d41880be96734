"""Writing files so that a crash leaves the old file or the new one, never half of one."""

import errno
import hashlib
import os
import re
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedsite.errors import CannotWrite, SourceMissing

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
ABANDONED_SECONDS = 86_400.0
"""Nobody is taken to write to a file for so long without a byte: of another machine's processes no more is known."""
_UNFINISHED = re.compile(r"\..*\.([0-9]+)([0-9]{10})\.tmp", re.DOTALL)
_WRITE_FAULTS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
}


@contextmanager
def atomic_writer(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path`; on a clean exit fsyncs it and renames it into place.

    On any exception the temporary file is removed and `path` is untouched.
    Raises CannotWrite when the folder does not take the file.
    """
    temporary = unfinished(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        try:
            os.fchmod(descriptor, mode)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            fsync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno in _WRITE_FAULTS:
            raise cannot_write(path, error) from error
        raise


def unfinished(path: Path) -> Path:
    """Where a file lies while this process writes it: machines that share a folder may have processes of one number."""
    return path.with_name(f".{path.name}.{os.getpid()}{_this_machine():010d}.tmp")


def sweep(folder: Path) -> None:
    """Removes what writers that are gone have left half-written in a folder and below; those at work keep theirs.

    What cannot be removed stays: it harms nothing.
    """
    with suppress(OSError):  # another process may be removing a folder
        for path in folder.rglob(".*.tmp"):
            with suppress(OSError):
                if _is_nobodys(path):
                    path.unlink()


def _is_nobodys(path: Path) -> bool:
    found = _UNFINISHED.fullmatch(path.name)
    if found is None:
        return False
    process, machine = map(int, found.groups())
    if machine != _this_machine():
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    return process == os.getpid() or not _is_there(process)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _this_machine() -> int:
    return zlib.crc32(socket.gethostname().encode())


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replaces `path` by `content` durably, in one step."""
    with atomic_writer(path, mode) as file:
        file.write(content)


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Creates a folder (and its parents), durably, if it is not there."""
    try:
        new = [one for one in (path, *path.parents) if not one.exists()]
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        for one in new:
            fsync_folder(one.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def remove(path: Path) -> None:
    """Removes a file, if it is there, so that no power cut brings it back. Raises CannotWrite."""
    try:
        path.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder durable (a rename is only safe once its folder is)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes as 64 hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise SourceMissing(f"{path.name} is not there.") from error


def copy_database(source: Path, target: Path) -> None:
    """A durable copy (0600) of an SQLite file as it is at one moment, whoever writes meanwhile; read once it is there.

    Replaces `target`, which needs no log beside it. Raises CannotWrite when it cannot be stored, or `source` is locked
    for too long, sqlite3.DatabaseError where pages of `source` are damaged.
    """
    import sqlite3

    try:
        target.unlink(missing_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE))
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
            copy.execute("pragma journal_mode = delete")
            found = copy.execute("pragma integrity_check").fetchone()
        if found != ("ok",):
            raise sqlite3.DatabaseError(f"the copy is damaged: {found[0]}")
        with target.open("rb") as file:
            os.fsync(file.fileno())
        fsync_folder(target.parent)
    except sqlite3.OperationalError as error:
        raise CannotWrite(
            f"The database cannot be copied to {target.parent}: {error}.", "Free some space, or try again later."
        ) from error
    except OSError as error:
        raise cannot_write(target, error) from error


def is_private(path: Path) -> bool:
    """True when only the user who runs fedsite can read or write `path` (owner and mode, links not followed)."""
    status = path.lstat()
    return status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode) and not status.st_mode & 0o077


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """Names the folder, not the file: a file name below an export may be a patient's."""
    return CannotWrite(
        f"Cannot write in {path.parent}: {error.strerror or error}.",
        "Give the user who runs fedsite write permission there, or free some space; then run the command again.",
    )
