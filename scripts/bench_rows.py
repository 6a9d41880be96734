"""What every bench ends with: rows that compare one figure with another of the same run, as a table and as JSON."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure. `ratio` is value over that of `against`; `target` is the largest ratio that holds (None: none)."""

    what: str
    value: float
    unit: str
    against: str
    ratio: float
    target: float | None
    holds: bool | None


def compare(what: str, value: float, unit: str, against: str, reference: float, target: float | None = None) -> Row:
    """A row with its ratio, and whether the target holds."""
    ratio = value / reference
    holds = None if target is None else ratio <= target
    return Row(what, round(value, 4), unit, against, round(ratio, 3), target, holds)


def reach(what: str, value: float, unit: str, against: str, asked: float) -> Row:
    """A row of a value that must not be below another: its ratio is that of what is asked to what is reached."""
    return Row(what, round(value, 4), unit, against, round(asked / max(value, 1e-9), 3), 1.0, value >= asked)


def main(description: str, measure: Callable[[bool], list[Row]]) -> int:
    """The command line of a bench: `measure(quick)` gives its rows. The exit code is 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer repeats; ends within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    options = parser.parse_args()
    return report(measure(options.quick), options.json)


def report(rows: list[Row], file: Path | None) -> int:
    """Prints the rows and writes them to the file, if there is one. Gives the exit code."""
    Console(width=100).print(_table(rows))
    if file:
        file.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    return int(any(row.holds is False for row in rows))


def _table(rows: list[Row]) -> Table:
    table = Table("what", "value", "against", "ratio", "target", "holds", box=None)
    words = {True: "yes", False: "NO", None: ""}
    for row in rows:
        target = "" if row.target is None else f"<= {row.target:g}"
        table.add_row(
            row.what, f"{row.value:.3g} {row.unit}", row.against, f"{row.ratio:.2f}", target, words[row.holds]
        )
    return table
