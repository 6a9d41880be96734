"""`fedsite evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fedsite.jobs.models.evaluate import Done
    from fedsite.jobs.models.evaluations import Evaluation
    from fedsite.training.summary import Estimate, Row, Summary


def evaluate(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A model file of your own; default: the newest global model.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN.yaml", help="The plan that it was made for; default: the newest that this site has met."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the HTML page goes; default: below the state folder.")
    ] = None,
    training_cases: Annotated[
        bool, typer.Option("--training-cases", help="Measure on what was learned from instead; nothing is remembered.")
    ] = False,
) -> None:
    """Measures the newest global model on this site's held-out patients. The result stays at home."""
    from fedsite.jobs.models import evaluate as job
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path, out.warn) as site:
        done = job.evaluate_at_home(site, job.Order(model, plan, report, training_cases), out.step)
    data = {**_data(done.found), "report": str(done.report)}
    out.result("evaluated", data, lambda console: _show(console, done))


def _show(console: "Console", done: "Done") -> None:
    for table in _tables(done.found):
        console.print(table)
    console.print(f"Measured in {done.found.seconds:.0f} s; it stays at home. Pictures: {done.report}", markup=False)


def _data(found: "Evaluation") -> dict[str, Any]:
    from dataclasses import asdict

    from fedsite.jobs.models import evaluations

    return {
        "model_sha256": found.model.sha256,
        "after_round": found.model.after_round,
        "mean_dice": found.dice.mean,
        "low": found.dice.low,
        "high": found.dice.high,
        "patients": found.dice.patients,
        "split": found.split,
        "dice": {case.id: case.dice for case in found.cases},
        "seconds": round(found.seconds, 1),
        "summaries": [asdict(summary) for summary in found.summaries],
        "cases": evaluations.measures_of(found.cases),
    }


def _tables(found: "Evaluation") -> "list[Table]":
    from rich.markup import escape
    from rich.table import Table

    tables = []
    for summary in found.summaries:
        title = f"{found.model.title.capitalize()}: {summary.structure}, mean (95% interval) over patients"
        table = Table(title=title, title_justify="left", box=None)
        table.add_column("")
        for column in ("cases", "Dice", "HD95 mm", "lesion F1", "volume off by ml"):
            table.add_column(column, justify="right")
        for name, rows in _groups(summary):
            if name:
                table.add_row(f"[dim]{name}[/dim]")
            for row in rows:
                table.add_row(escape(row.group), str(row.cases), *_cells(row))
        tables.append(table)
    return tables


def _groups(summary: "Summary") -> "list[tuple[str, tuple[Row, ...]]]":
    return [("", (summary.all,)), ("by size", summary.by_size), ("by scanner", summary.by_scanner)]


def _cells(row: "Row") -> tuple[str, ...]:
    hd95 = _shown(row.hd95_mm, 1)
    if row.hd95_mm.undefined:
        hd95 += f", {row.hd95_mm.undefined} undefined"
    return _shown(row.dice, 3), hd95, _shown(row.f1, 2), _shown(row.absolute_volume_difference_ml, 1)


def _shown(value: "Estimate", digits: int) -> str:
    if value.mean is None:
        return "-"
    mean = f"{value.mean:.{digits}f}"
    return mean if value.low is None else f"{mean} ({value.low:.{digits}f} to {value.high:.{digits}f})"
