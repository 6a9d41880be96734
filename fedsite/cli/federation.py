"""What the coordinator's commands share: the federation's folder, and how a table is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The federation's folder.")]
HERE = Path()


def draw(console: "Console", columns: list[str], rows: list[dict[str, Any]]) -> None:
    """A table of some of the rows' values."""
    from rich.table import Table

    table = Table(*[column.replace("_", " ") for column in columns], box=None)
    for row in rows:
        table.add_row(*["" if row[column] is None else str(row[column]) for column in columns])
    console.print(table)
