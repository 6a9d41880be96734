"""`fedsite privacy`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedsite.cli.output import Output
from fedsite.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(help="The privacy ledger: what was spent, what is left, what a mechanism would cost.")


@app.command()
def show(context: typer.Context) -> None:
    """Shows what the ledger has spent and what its budget still allows."""
    from fedsite.jobs.site import open_ledger
    from fedsite.privacy.statement import guarantee

    out = Output.of(context)
    with open_ledger(out.config_path) as (ledger, config):
        spent, terms = ledger.spent(), ledger.terms
    limit = config.policy.maximum_epsilon
    budget = terms.epsilon if limit is None else min(limit, terms.epsilon)
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
def history(context: typer.Context) -> None:
    """Shows every record of the ledger."""
    from fedsite.jobs.site import open_ledger

    out = Output.of(context)
    with open_ledger(out.config_path) as (ledger, _):
        records = [
            {"sequence": one.sequence, "time": one.time, **one.body, "hash": one.hash} for one in ledger.records()
        ]
    out.result("shown", {"records": records}, lambda console: console.print(_history(records)))


@app.command()
def cost(
    context: typer.Context,
    noise_multiplier: Annotated[float, typer.Option(min=0, help="sigma: noise over the clip norm.")],
    delta: Annotated[float, typer.Option(min=0, max=1, help="delta.")],
    sampling_rate: Annotated[float, typer.Option(min=0, max=1, help="q: chance of a patient to be in a step.")] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="How often the mechanism is applied.")] = 1,
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


def _history(records: list[dict[str, object]]) -> "Table":
    from rich.table import Table

    table = Table("#", "time", "kind", "round", "facts", box=None)
    for one in records:
        after = one.get("after")
        facts = f"epsilon after {after['epsilon']}" if isinstance(after, dict) else str(one.get("payload_sha256", ""))
        table.add_row(str(one["sequence"]), str(one["time"]), str(one["kind"]), str(one.get("round", "")), facts)
    return table
