"""`fedsite check`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

    from fedsite.jobs.checks.findings import Check

COLOURS = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}


def check(
    context: typer.Context,
    as_cron: Annotated[
        bool,
        typer.Option("--as-cron", help="Only this: does the key open without environment, terminal, input, person?"),
    ] = False,
    notify: Annotated[
        bool, typer.Option("--notify", help="Also send a test to everybody who is told how runs go (notifications).")
    ] = False,
) -> None:
    """Runs every pre-flight check and says what to mend before the next round."""
    out = Output.of(context)
    if as_cron:
        from fedsite.jobs.checks import identity

        found = [identity.key_as_cron(out.config_path)]
    else:
        from fedsite.jobs.checks import preflight as job

        with out.step("Checking") as progress:
            found = job.check(out.config_path, progress, notify=notify)
    worst = next((one for one in found if one.status == "error"), None)
    out.result(
        "failed" if worst else "ready",
        {"checks": [asdict(one) for one in found]},
        lambda console: console.print(_table(found)),
    )
    if worst:
        raise typer.Exit(worst.exit_code)


def _table(found: "list[Check]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")  # a fingerprint is compared to its last digit
    for one in found:
        text = f"{one.message}\n{one.mend}" if one.mend else one.message
        # As text: a message may hold what another machine calls itself, brackets and all.
        table.add_row(Text(one.status, COLOURS[one.status]), one.name, Text(text))
    return table
