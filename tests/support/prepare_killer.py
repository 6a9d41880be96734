"""Runs the fedsite command and sends itself SIGKILL at a named place of a preparation.

`record:N` dies once N studies are in the journal, `store:N` in the middle of writing the Nth case file, `commit` just
before the manifest is replaced, `sweep` just after.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from fedsite.dataset import cases, folder
from fedsite.dataset.manifest import Manifest

KIND, _, NUMBER = os.environ["KILL_AT"].partition(":")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    done = count(1)
    record, store, save = folder.PreparedFolder.record, cases.store_case, folder.save

    def record_and_die(self: folder.PreparedFolder, outcome: Any) -> None:
        record(self, outcome)
        if KIND == "record" and next(done) == int(NUMBER):
            die()

    def store_half(place: Path, encoded: cases.EncodedCase) -> None:
        if KIND == "store" and next(done) == int(NUMBER):
            half = place / f"{cases.FOLDER}/.{Path(encoded.file).name}.{os.getpid()}.tmp"
            half.parent.mkdir(exist_ok=True)
            half.write_bytes(encoded.content[: len(encoded.content) // 2])
            die()
        store(place, encoded)

    def save_and_die(place: Path, manifest: Manifest) -> None:
        if KIND == "commit":
            die()
        save(place, manifest)
        if KIND == "sweep":
            die()

    folder.PreparedFolder.record = record_and_die
    cases.store_case = store_half
    folder.save = save_and_die


if __name__ == "__main__":
    arm()
    from fedsite.cli.main import main

    sys.argv[0] = "fedsite"
    main()
