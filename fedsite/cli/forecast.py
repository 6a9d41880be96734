"""`fedsite privacy forecast` and `fedsite privacy plan`."""

from typing import Annotated, Any, Literal

import typer

from fedsite.cli.output import Output
from fedsite.errors import UsageError


def forecast(
    context: typer.Context,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, metavar="N", help="Also say what noise would make it last so many rounds."),
    ] = None,
) -> None:
    """Says how many rounds the budget still pays under the plan of the newest round."""
    from fedsite.jobs.privacy import forecast as job

    out = Output.of(context)
    with out.step("Composing"):
        data = job.forecast(out.config_path, rounds)
    out.result("forecast", data, _forecast(data))


def plan(
    context: typer.Context,
    rounds: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="How many rounds it must last.")],
    epsilon: Annotated[
        float, typer.Option(min=0, metavar="E", help="What all of them together may cost: an epsilon per patient.")
    ],
    delta: Annotated[
        float, typer.Option(min=0, max=0.1, metavar="D", help="The delta that goes with it, a chance.")
    ] = 1e-6,
    mechanism: Annotated[
        Literal["dp-sgd", "gaussian-update"], typer.Option(help="The plan's privacy.mechanism.")
    ] = "dp-sgd",
    batch_patients: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Patients that a step of dp-sgd samples on average.")
    ] = None,
    nominal_patients: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Patients that the site's ledger was made for.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Steps of dp-sgd in one round.")] = None,
) -> None:
    """Says what noise multiplier makes a new ledger's budget pay for so many rounds of a mechanism."""
    from fedsite.jobs.privacy import forecast as job

    if epsilon == 0 or delta == 0:
        raise UsageError("Epsilon and delta must be above zero.", "Nothing that leaves is worth zero.")
    of_dp_sgd = (batch_patients, nominal_patients, steps)
    if mechanism == "dp-sgd" and None in of_dp_sgd:
        raise UsageError(
            "dp-sgd needs --batch-patients, --nominal-patients and --steps.", "Or ask for --mechanism gaussian-update."
        )
    if mechanism == "gaussian-update" and of_dp_sgd != (None, None, None):
        raise UsageError("gaussian-update samples nobody and has one step.", "Leave out what is said of its steps.")
    rate = (batch_patients or 1) / (nominal_patients or 1)
    if rate > 1:
        raise UsageError("A step cannot sample more patients than there are.", "Lower --batch-patients.")
    out = Output.of(context)
    with out.step("Composing"):
        data = job.plan(mechanism, rate, steps or 1, rounds, epsilon, delta)
    out.result("planned", data, _plan(data))


def _forecast(data: dict[str, Any]) -> str:
    left = data["rounds_left"]
    budget = f"epsilon {data['budget']:,.4g} (set by {data['budget_of']})"
    lines = [f"Spent    {data['guarantee']}"]
    if left is None:
        lines.append(f"Plan     {data['plan']} adds no noise: it has no price, and what leaves is not private")
    else:
        until = f", at the pace so far until {data['lasts_until']}" if data["lasts_until"] else ""
        lines.append(f"Plan     {data['plan']}: {data['mechanism']}, noise multiplier {data['noise_multiplier']:g}")
        lines.append(f"Lasts    {left:,} more rounds within {budget}{until}")
        lines.append(f"Then     {data['guarantee_after']}")
    if data["rounds"] is not None:
        noise = data["noise_multiplier_for_rounds"]
        told = f"a noise multiplier of {noise:g}" if noise is not None else "more noise than any plan may ask for"
        lines.append(f"For {data['rounds']:,} more rounds this plan would need {told}.")
    return "\n".join(lines)


def _plan(data: dict[str, Any]) -> str:
    if data["noise_multiplier"] is None:
        return f"No noise that a plan may ask for makes the budget last {data['rounds']:,} rounds."
    return "\n".join(
        [
            f"Noise multiplier {data['noise_multiplier']:g} ({data['mechanism']}) makes {data['rounds']:,} rounds cost",
            f"  {data['guarantee']}",
            f"  for this fixed sequence: epsilon {data['epsilon_of_sequence']:,.4g}",
        ]
    )
