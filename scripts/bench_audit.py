"""What the audit costs: a record beside SQLite's own durable commit of a row, and verifying six years of records.

A site that checks in every hour for six years writes about 100,000 records. Verifying them is compared with reading the
same rows and hashing them, which is the least that any check of them must do.
"""

import hashlib
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench_rows import Row, compare, main
from example_site import make_site

from fedsite.jobs.audit import audit_file
from fedsite.site.state import State

RECORDS, QUICK_RECORDS = 100_000, 10_000
APPENDED, REPEATS, QUICK_REPEATS = 200, 5, 3
REQUEST = {"method": "POST", "path": "/v1/participation", "status": 200, "sent": 41, "received": 118, "seconds": 0.031}


def measure(quick: bool) -> list[Row]:
    """Medians of turns that alternate; the appended records are durable one by one."""
    records, repeats = (QUICK_RECORDS, QUICK_REPEATS) if quick else (RECORDS, REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        config = make_site(Path(folder).resolve(), rounds=24)
        with State.open(config.parent / "state") as state:
            commit, append = _appending(state, Path(folder) / "plain.db")
            with state.transaction():
                for _ in range(records - state.heads()["audit"].sequence):
                    state.audit("request", ahead=0, **REQUEST)
            hashed, verified = _in_turns(repeats, lambda: _hash_alone(state), state.verify)
        exported = Path(folder) / "audit.jsonl"
        audit_file.export(config, exported)
        (of_file,) = _in_turns(repeats, lambda: audit_file.verify(exported))
    least = "reading and hashing the rows"
    return [
        compare("a record, durable", append, "s", "SQLite's commit of a row", commit, 2.0),
        compare(f"audit verify, {records:,} records", verified, "s", least, hashed, 4.0),
        compare(f"audit verify FILE, {records:,} records", of_file, "s", least, hashed, 10.0),
    ]


def _appending(state: State, plain: Path) -> tuple[float, float]:
    """Median seconds of a plain durable commit, and of a record."""
    database = sqlite3.connect(plain, isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table rows (body text)")
    commit, append = _in_turns(
        APPENDED,
        lambda: database.execute("insert into rows values (?)", ("x" * 300,)),
        lambda: state.audit("request", ahead=0, **REQUEST),
    )
    database.close()
    return commit, append


def _hash_alone(state: State) -> None:
    for row in state.rows("audit"):
        hashlib.sha256(repr(row).encode()).digest()


def _in_turns(repeats: int, *acts: Callable[[], object]) -> list[float]:
    """The median seconds of each act; they take turns, so that whatever else the machine does hits all of them."""
    times: list[list[float]] = [[] for _ in acts]
    for _ in range(repeats):
        for act, spent in zip(acts, times, strict=True):
            started = time.perf_counter()
            act()
            spent.append(time.perf_counter() - started)
    return [statistics.median(spent) for spent in times]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
