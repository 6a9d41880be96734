"""`fedsite privacy`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedsite.cli import attack, forecast, recover
from fedsite.cli.commands import Commands
from fedsite.cli.output import Output
from fedsite.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

app = Commands("The privacy ledger: what was spent, what is left, what a mechanism would cost.")


@app.command()
def show(context: typer.Context) -> None:
    """Shows what the ledger has spent and what its budget still allows."""
    from fedsite.jobs.site import open_ledger
    from fedsite.privacy.statement import guarantee

    out = Output.of(context)
    with open_ledger(out.config_path) as (ledger, config):
        spent, terms = ledger.spent(), ledger.terms
    budget = terms.budget(config.policy.maximum_epsilon)
    data = {
        "epsilon": spent.epsilon,
        "epsilon_of_this_sequence": spent.epsilon_of_sequence,
        "budget": budget,
        "left": None if spent.epsilon is None else max(0.0, budget - spent.epsilon),
        "delta": terms.delta,
        "order": terms.order,
        "unit": terms.unit,
        "relation": terms.relation,
        "nominal_patients": terms.nominal_patients,
        "releases": spent.releases,
        "guarantee": guarantee(spent.epsilon, terms.delta),
    }
    lines = [
        f"Spent   {data['guarantee']}",
        f"Budget  epsilon {budget:,.4g} (left: {'nothing' if data['left'] is None else format(data['left'], ',.4g')})",
        f"From    {spent.releases} releases; the binding number is the RDP filter at order {terms.order:g}",
    ]
    if spent.epsilon_of_sequence is not None and spent.releases:
        lines.append(f"        for this fixed sequence: epsilon {spent.epsilon_of_sequence:,.4g}")
    out.result("shown", data, "\n".join(lines))


@app.command()
def history(
    context: typer.Context,
    calendar: Annotated[bool, typer.Option("--calendar", help="By month: what was spent, and what was left.")] = False,
) -> None:
    """Shows every record of the ledger, or what each month has cost."""
    from dataclasses import asdict

    from fedsite.jobs.site import open_ledger
    from fedsite.privacy.spending import calendar as months_of

    out = Output.of(context)
    with open_ledger(out.config_path) as (ledger, config):
        records = [
            {"sequence": one.sequence, "time": one.time, **one.body, "hash": one.hash} for one in ledger.records()
        ]
        months = [asdict(month) for month in months_of(ledger.charges())]
        terms = ledger.terms
    budget = terms.budget(config.policy.maximum_epsilon)
    table = _calendar(months, budget, terms.delta) if calendar else _history(records, terms.delta)
    out.result("shown", {"records": records, "calendar": months}, lambda console: console.print(table))


app.command("forecast")(forecast.forecast)
app.command("plan")(forecast.plan)


@app.command()
def cost(
    context: typer.Context,
    noise_multiplier: Annotated[
        float, typer.Option(min=0, metavar="SIGMA", help="The noise's standard deviation over the clip norm.")
    ],
    delta: Annotated[float, typer.Option(min=0, max=1, metavar="D", help="The delta that goes with it, a chance.")],
    sampling_rate: Annotated[
        float, typer.Option(min=0, max=1, metavar="Q", help="The chance of a patient to be in a step.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="How often the mechanism is applied.")] = 1,
    relation: Annotated[
        Literal["add-remove", "replace-one"], typer.Option(help="What it means that one patient differs.")
    ] = "add-remove",
) -> None:
    """Prices a Gaussian mechanism (per-patient contribution clipped to 1) before anyone runs it."""
    from fedsite.privacy import accountant

    if noise_multiplier == 0 or delta == 0 or sampling_rate == 0:
        raise UsageError("Noise multiplier, sampling rate and delta must be above zero.", "Without noise: not private.")
    out = Output.of(context)
    with out.step("Composing"):
        found = accountant.cost(noise_multiplier, sampling_rate, steps, delta, relation)
    data = {
        "epsilon": found.epsilon,
        "epsilon_rdp": found.epsilon_rdp,
        "delta": delta,
        "relation": relation,
        "unit": "patient",
        "accountant": accountant.accountant_version(),
    }
    rdp = "no answer" if found.epsilon_rdp is None else f"{found.epsilon_rdp:,.4g}"
    text = f"epsilon {found.epsilon:,.4g} per patient ({relation}), delta {delta:g}; by RDP: {rdp}"
    out.result("priced", data, text)


app.command("recover")(recover.recover)
app.command("export")(recover.export)
app.command("attack")(attack.attack)


def _history(records: list[dict[str, Any]], delta: float) -> "Table":
    from rich.table import Table

    from fedsite.privacy.statement import scale

    table = Table("#", "time", "kind", "round", "facts", box=None, caption=scale(delta), caption_justify="left")
    for one in records:
        facts = str(one.get("payload_sha256") or "")
        if "after" in one:
            facts = f"epsilon {_epsilon(one['after']['epsilon'])} from here on"
        if not one.get("priced", True):
            facts += " (no provable price: all that was left)"
        table.add_row(str(one["sequence"]), str(one["time"]), str(one["kind"]), str(one.get("round", "")), facts)
    return table


def _calendar(months: list[dict[str, Any]], budget: float, delta: float) -> "Table":
    from rich.table import Table

    from fedsite.privacy.statement import scale

    columns = ("month", "releases", "spent in it", "spent so far", "left")
    table = Table(*columns, box=None, caption=scale(delta), caption_justify="left")
    for one in months:
        left = None if one["epsilon"] is None else max(0.0, budget - one["epsilon"])
        numbers = [_epsilon(value) for value in (one["rise"], one["epsilon"], left)]
        table.add_row(one["month"], str(one["releases"]), *numbers)
    return table


def _epsilon(value: float | None) -> str:
    return "not private" if value is None else f"{value:,.4g}"
