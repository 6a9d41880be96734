"""`fedsite report`."""

from pathlib import Path
from typing import Annotated

import typer

from fedsite.cli.output import Output


def report(
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write the page; without it: reports/ in the state folder."),
    ] = None,
) -> None:
    """Writes a page of this site's participation: rounds, Dice, privacy, bytes, GPU hours, warnings. It stays here."""
    from fedsite.jobs import report as job

    out = Output.of(context)
    page = job.write(out.config_path, output.absolute() if output else None)
    out.result("written", {"report": str(page)}, f"The page: {page}\nIt holds Dice: it stays at this site.")
