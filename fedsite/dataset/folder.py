"""The prepared folder while it is being written: one run at a time, progress that survives a kill, one commit.

What a run finishes goes line by line into `journal.jsonl`; the manifest is replaced only when all is done, and case
files are named by their content. So a reader sees the old set or the new one, whole, at any moment; a run that was
killed goes on from its journal.
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from fedsite.dataset import cases
from fedsite.dataset.manifest import FILE_NAME, CaseRecord, Closed, Exclusion, Manifest, load, save
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import exclusion
from fedsite.errors import DataNotFit, SourceMissing, TryAgainLater
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, cannot_write, fsync_folder, make_folder, write_atomically

JOURNAL = "journal.jsonl"
LOCK = ".lock"
_HALF_WRITTEN = re.compile(r"^\.(?:manifest\.json|journal\.jsonl|(?:report|check)\.html)\.[0-9]+\.tmp$")
Outcome = CaseRecord | Exclusion


class _Line(Closed):
    """One line of the journal."""

    case: CaseRecord | None = None
    excluded: Exclusion | None = None


class PreparedFolder:
    """A prepared folder that this process alone may write. Made by `hold`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = _load_if_there(path)
        self._journal: BinaryIO | None = None

    def outcomes(self) -> dict[str, Outcome]:
        """What earlier runs found out, by the study's pseudonym; the journal's word is newer than the manifest's.

        A case whose file is missing or damaged is left out: it is to be prepared again.
        """
        known: list[Outcome] = [*self.manifest.cases, *self.manifest.excluded] if self.manifest else []
        latest = {outcome.id: outcome for outcome in [*known, *_journalled(self.path / JOURNAL)]}
        return {key: outcome for key, outcome in latest.items() if self._is_whole(outcome)}

    def record(self, outcome: Outcome) -> None:
        """Makes a finished study durable. Raises CannotWrite."""
        try:
            journal = self._journal or self._open_journal()
            journal.write(_line(outcome))
            journal.flush()
            os.fsync(journal.fileno())
        except OSError as error:
            raise cannot_write(self.path / JOURNAL, error) from error

    def commit(self, manifest: Manifest) -> None:
        """Replaces the manifest (unless it says the same), then removes what it no longer names."""
        if manifest != self.manifest:
            save(self.path, manifest)
            self.manifest = manifest
        self.discard_progress()

    def discard_progress(self) -> None:
        """Removes the journal and every case file that the manifest does not name."""
        self.close()
        (self.path / JOURNAL).unlink(missing_ok=True)
        self._sweep(self.manifest.cases if self.manifest else ())

    def withdraw(self, patient: str) -> int:
        """Takes a patient's cases out of the manifest and out of what an interrupted run had finished; removes them.

        Gives how many case files went. May be killed anywhere and called again. Raises CannotWrite.
        """
        journalled = list(_journalled(self.path / JOURNAL))
        if self.manifest:
            manifest = _without(self.manifest, patient)
            if manifest != self.manifest:
                save(self.path, manifest)
                self.manifest = manifest
        kept = [outcome for outcome in journalled if outcome.patient != patient]
        if len(kept) < len(journalled):
            write_atomically(self.path / JOURNAL, b"".join(map(_line, kept)), PRIVATE_FILE)
        remaining = [*(self.manifest.cases if self.manifest else ()), *kept]
        return self._sweep([outcome for outcome in remaining if isinstance(outcome, CaseRecord)])

    def _sweep(self, kept: Collection[CaseRecord]) -> int:
        """Removes, durably, every case file but those of `kept` (gives how many), and what a kill left half written."""
        named = {case.file for case in kept}
        folder = self.path / cases.FOLDER
        unnamed = [file for file in cases.stored(folder) if f"{cases.FOLDER}/{file.name}" not in named]
        for leftover in [*unnamed, *folder.glob(".*.safetensors.*.tmp")]:
            leftover.unlink(missing_ok=True)
        for leftover in self.path.glob(".*.tmp"):
            if _HALF_WRITTEN.match(leftover.name):
                leftover.unlink(missing_ok=True)
        if folder.is_dir():
            fsync_folder(folder)
            if not any(folder.iterdir()):
                folder.rmdir()
        fsync_folder(self.path)
        return len(unnamed)

    def close(self) -> None:
        """Closes the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _is_whole(self, outcome: Outcome) -> bool:
        if isinstance(outcome, Exclusion):
            return True
        try:
            case = cases.open_case(self.path / outcome.file)
        except (SourceMissing, DataNotFit):
            return False
        return case.label.shape == outcome.shape

    def _open_journal(self) -> BinaryIO:
        """Opens the journal for appending, without the half line that a kill may have left at its end."""
        path = self.path / JOURNAL
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
        self._journal = os.fdopen(descriptor, "r+b")
        content = self._journal.read()
        self._journal.seek(content.rfind(b"\n") + 1)
        self._journal.truncate()
        fsync_folder(self.path)
        return self._journal


@contextmanager
def hold(path: Path) -> Iterator[PreparedFolder]:
    """The folder, made if need be, locked against other runs; one that was made and stayed empty is removed again.

    Raises TryAgainLater when another run is at work there, CannotWrite, and DataNotFit on a damaged manifest.
    """
    was_there = path.exists()
    make_folder(path, PRIVATE_FOLDER)
    descriptor = _lock(path / LOCK)
    try:
        folder = PreparedFolder(path)
        try:
            yield folder
        finally:
            folder.close()
    finally:
        # Removed while it is still held: `_lock` tells a removed file from the one that stands there.
        (path / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if not was_there and not any(path.iterdir()):
            path.rmdir()


def _lock(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise TryAgainLater(
                "Another fedsite run is preparing data in this folder.", "It will finish by itself; try again later."
            ) from None
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _load_if_there(folder: Path) -> Manifest | None:
    return load(folder) if (folder / FILE_NAME).exists() else None


def withdrawal(study: str, patient: str) -> Exclusion:
    """What is left of a study whose patient was withdrawn."""
    return exclusion(study, patient, [finding("patient-withdrawn", study)])


def _without(manifest: Manifest, patient: str) -> Manifest:
    """The manifest with a patient's studies left out, each for that one reason."""
    studies: list[Outcome] = [*manifest.cases, *manifest.excluded]
    excluded = [study for study in manifest.excluded if study.patient != patient]
    excluded += [withdrawal(study.id, patient) for study in studies if study.patient == patient]
    return manifest.model_copy(
        update={
            "cases": tuple(case for case in manifest.cases if case.patient != patient),
            "excluded": tuple(sorted(excluded, key=lambda study: study.id)),
        }
    )


def _line(outcome: Outcome) -> bytes:
    line = _Line(case=outcome) if isinstance(outcome, CaseRecord) else _Line(excluded=outcome)
    return line.model_dump_json().encode() + b"\n"


def _journalled(path: Path) -> Iterator[Outcome]:
    """The journal's whole lines; what comes after the first broken one is forgotten."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = _Line.model_validate_json(line)
        except ValidationError:
            return
        outcome = entry.case or entry.excluded
        if outcome is not None:
            yield outcome
