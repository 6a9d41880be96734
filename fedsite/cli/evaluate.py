"""`fedsite evaluate`."""

from typing import TYPE_CHECKING

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

    from fedsite.jobs.measure import Measured


def evaluate(context: typer.Context) -> None:
    """Measures the newest global model on this site's held-out patients. The result stays at home."""
    from fedsite.jobs import measure
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path) as site:
        found = measure.newest_model(site, out.step)
    data = {"model_sha256": found.model_sha256, "after_round": found.after_round, "mean_dice": found.mean_dice}
    out.result("evaluated", {**data, "dice": found.dice}, lambda console: console.print(_table(found)))


def _table(found: "Measured") -> "Table":
    from rich.table import Table

    table = Table("case", "Dice", box=None, title=f"Global model after round {found.after_round} (stays at home)")
    for case, dice in sorted(found.dice.items(), key=lambda item: item[1]):
        table.add_row(case, f"{dice:.3f}")
    table.add_row("mean", f"{found.mean_dice:.3f}")
    return table
