"""`fedsite status`."""

from typing import TYPE_CHECKING, Any

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table


def status(context: typer.Context) -> None:
    """Shows on one screen who this site is, its data, its last rounds and its privacy budget."""
    from fedsite.jobs import status as job

    out = Output.of(context)
    data = job.status(out.config_path)
    out.result("shown", data, lambda console: console.print(_screen(data)))


def _screen(data: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(box=None, show_header=False)
    identity, cases, privacy = data["identity"], data["data"], data["privacy"]
    if identity is None:
        table.add_row("Site", "not enrolled; next: fedsite enroll --invitation FILE")
    else:
        table.add_row("Site", f"{identity['site']} in federation {identity['federation']} ({identity['server']})")
        table.add_row("Certificate", f"{identity['days_left']:.0f} days left")
    if cases is None:
        table.add_row("Data", "none prepared; next: fedsite prepare-data SOURCE --task TASK")
    else:
        table.add_row("Data", f"{cases['training']} training, {cases['validation']} held out ({cases['task']})")
    table.add_row("Privacy", privacy["guarantee"])
    table.add_row("", f"budget epsilon {privacy['budget']:,.4g}, {privacy['releases']} releases")
    for one in data["rounds"]:
        table.add_row(f"Round {one['round']}", f"{one['state']}, {one['changed']}")
    if not data["rounds"]:
        table.add_row("Rounds", "none yet")
    return table
