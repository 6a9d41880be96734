"""Runs the fedsite command and sends itself SIGKILL at a named place of a preparation or a withdrawal.

`record:N` dies once N studies are in the journal, `line:N` in the middle of the journal's Nth line, `store:N` in the
middle of writing the Nth case file, `commit` just before the manifest is replaced, `sweep` just after, `report` in the
middle of the report, `withdrawn` once a withdrawal is on record.
"""

import os
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from fedsite import files
from fedsite.dataset import cases, folder, report
from fedsite.dataset.manifest import Manifest
from fedsite.site import withdrawals
from fedsite.site.state import State

KIND, _, NUMBER = os.environ["KILL_AT"].partition(":")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    """Puts the one fault that was asked for in its place."""
    {
        "record": at_the_journal,
        "line": at_the_journal,
        "store": at_a_case,
        "commit": at_the_manifest,
        "sweep": at_the_manifest,
        "report": at_the_report,
        "withdrawn": at_a_withdrawal,
    }[KIND]()


def at_the_journal() -> None:
    record, done = folder.PreparedFolder.record, count(1)

    def record_and_fail(self: folder.PreparedFolder, outcome: Any) -> None:
        record(self, outcome)
        if next(done) != int(NUMBER):
            return
        if KIND == "line":
            journal = self.path / folder.JOURNAL
            os.truncate(journal, journal.stat().st_size - 40)
        die()

    folder.PreparedFolder.record = record_and_fail


def at_a_case() -> None:
    store, done = cases.store_case, count(1)

    def store_half(place: Path, encoded: cases.EncodedCase) -> None:
        if next(done) == int(NUMBER):
            half = files.unfinished(place / encoded.file)
            half.parent.mkdir(exist_ok=True)
            half.write_bytes(encoded.content[: len(encoded.content) // 2])
            die()
        store(place, encoded)

    cases.store_case = store_half


def at_the_manifest() -> None:
    save = folder.save

    def save_and_die(place: Path, manifest: Manifest) -> None:
        if KIND == "sweep":
            save(place, manifest)
        die()

    folder.save = save_and_die


def at_the_report() -> None:
    looked_at = report._looked_at

    def look_and_die(*args: Any) -> Iterator[Any]:
        for number, case in enumerate(looked_at(*args)):
            if number:
                die()
            yield case

    report._looked_at = look_and_die


def at_a_withdrawal() -> None:
    withdraw = withdrawals.withdraw

    def withdraw_and_die(state: State, patient: str) -> bool:
        withdraw(state, patient)
        die()
        return True

    withdrawals.withdraw = withdraw_and_die


if __name__ == "__main__":
    arm()
    from fedsite.cli.main import main

    sys.argv[0] = "fedsite"
    main()
