"""Model files by SHA-256, behind one small interface."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from fedsite.files import PRIVATE_FILE, cannot_write, fsync_folder, sweep, unfinished


class Blobs(Protocol):
    """Where files lie whose name is what is in them. Stored ones never change."""

    def path(self, sha256: str) -> Path:
        """A file on this machine that holds the bytes of a digest, to be read or mapped; there if they were added."""
        ...

    def add(self, blocks: Iterable[bytes]) -> tuple[str, int]:
        """Stores bytes as they come; gives (SHA-256, size). Raises as `add_together` does."""
        ...

    def add_together(self, pieces: Iterable[Mapping[str, bytes]]) -> dict[str, tuple[str, int]]:
        """Stores several files piece by piece, durably; gives (SHA-256, size) of each by name.

        Raises CannotWrite when the bytes cannot be taken.
        """
        ...

    def remove(self, sha256: str) -> None:
        """Removes what a digest names, if it is there."""
        ...

    def tidy(self) -> None:
        """Removes what a crash has left half-written."""
        ...


class FolderBlobs:
    """Blobs as files of one folder, named by their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file of a digest is, or would be."""
        return self._folder / sha256

    def add(self, blocks: Iterable[bytes]) -> tuple[str, int]:
        """Stores bytes as they come; gives (SHA-256, size). Raises as `add_together` does."""
        return self.add_together({"file": block} for block in blocks)["file"]

    def add_together(self, pieces: Iterable[Mapping[str, bytes]]) -> dict[str, tuple[str, int]]:
        """Stores several files piece by piece; gives (SHA-256, size) of each by name.

        Raises CannotWrite when the disk does not take the bytes.
        """
        with ExitStack() as together:
            files: dict[str, _Draft] = {}
            for some in pieces:
                for name, block in some.items():
                    if name not in files:
                        files[name] = together.enter_context(self._draft(name))
                    files[name].write(block)
        return {name: (one.digest.hexdigest(), one.size) for name, one in files.items()}

    def remove(self, sha256: str) -> None:
        """Removes the file of a digest, if it is there."""
        self.path(sha256).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes the drafts of processes that are gone."""
        sweep(self._folder)

    @contextmanager
    def _draft(self, name: str) -> Iterator["_Draft"]:
        """A file under way: durable under its digest once the block has ended, gone when that fails."""
        temporary = unfinished(self._folder / name)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE), "wb") as file:
                draft = _Draft(file)
                yield draft
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise cannot_write(temporary, error) from error
            raise
        temporary.replace(self.path(draft.digest.hexdigest()))
        fsync_folder(self._folder)


class _Draft:
    """An open file, its digest and its size so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, block: bytes) -> None:
        """Appends."""
        self.digest.update(block)
        self.size += self._file.write(block)
