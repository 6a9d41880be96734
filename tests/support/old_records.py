"""What a site of some version keeps: its database as SQL, as a recording holds it, and as a state folder again."""

import sqlite3
from contextlib import closing
from pathlib import Path

from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, write_atomically
from fedsite.privacy import accountant
from fedsite.privacy.ledger import Charge, Ledger, Terms
from fedsite.site.state import State

TERMS = Terms(epsilon=8.0, delta=1e-6, order=4.0, nominal_patients=100)
DATABASE, HEAD = "state.db", "records.head"


def written(folder: Path) -> dict[str, str]:
    """Files by name: the records of a site of today's that has paid for two rounds, and where they end."""
    with State.create(folder) as state:
        state.audit("initialised")
        ledger = Ledger.create(state, TERMS)
        for number in (1, 2):
            reservation = ledger.reserve(charge(number))
            state.put_round("test-federation", number, "released", {"ticket_sha256": f"{number:064x}"})
            ledger.release(reservation, f"{number + 10:064x}", 1000)
        ledger.acknowledge(reservation, "e" * 64)
        state.put_evaluation("f" * 64, {"mean_dice": 0.5})
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        [version] = database.execute("pragma user_version").fetchone()
        lines = [*database.iterdump(), f"PRAGMA user_version = {version};"]
    kept = {"records.sql": "\n".join(lines) + "\n"}
    return kept | ({HEAD: (folder / HEAD).read_text()} if (folder / HEAD).exists() else {})


def charge(number: int) -> Charge:
    """A round's charge: the whole update, noised once."""
    return Charge(
        federation="test-federation",
        round=number,
        plan_sha256="a" * 64,
        ticket_sha256=f"{number:064x}",
        mechanism="gaussian-update",
        sensitivity=2.0,
        clip_norm=1.0,
        noise_multiplier=20.0,
        sampling_rate=1.0,
        steps=1,
        release=accountant.gaussian_update(20.0),
        delta_tail=1e-10,
        generator="a generator",
    )


def restored(recording: Path, folder: Path) -> Path:
    """A state folder of what a recording holds."""
    folder.mkdir(mode=PRIVATE_FOLDER)
    write_atomically(folder / DATABASE, b"", PRIVATE_FILE)
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.executescript((recording / "records.sql").read_text())
    if (recording / HEAD).exists():
        write_atomically(folder / HEAD, (recording / HEAD).read_bytes(), PRIVATE_FILE)
    return folder
