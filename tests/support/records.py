"""What somebody does who writes into a site's records with SQL."""

import sqlite3
from pathlib import Path


def alter(path: Path, *statements: str) -> None:
    """Drops the triggers of a `state.db` that forbid it, then changes something by each statement."""
    with sqlite3.connect(path) as database:
        database.execute("pragma synchronous = off")
        for chain in ("ledger", "audit"):
            for what in ("updated", "deleted"):
                database.execute(f"drop trigger {chain}_is_never_{what}")
        for statement in statements:
            assert database.execute(statement).rowcount != 0, f"touched nothing: {statement}"
    database.close()
