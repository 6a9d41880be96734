"""`fedsite approve`."""

from typing import TYPE_CHECKING, Annotated

import typer

from fedsite.cli.asking import somebody_is_there
from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.jobs.plan.approve import Known


def approve(
    context: typer.Context,
    plan: Annotated[
        str,
        typer.Argument(metavar="PLAN", help="The plan's name, or the beginning of its kind, as train-round says it."),
    ],
    by: Annotated[str, typer.Option(help="Who agrees; without it the plan is only shown.", metavar="NAME")] = "",
    take_back: Annotated[bool, typer.Option("--take-back", help="Agree no more, from the next run on.")] = False,
) -> None:
    """Shows what a plan asks for, and records that a person agrees (policy.approve_plans)."""
    from fedsite.errors import UsageError
    from fedsite.jobs.plan import approve as job
    from fedsite.jobs.site import open_site

    if by and take_back:
        raise UsageError("--by and --take-back do not go together.", "Agree, or agree no more.")
    out = Output.of(context)
    with open_site(out.config_path) as site:
        known = job.find(site, plan)
        if take_back:
            done = job.take_back(site, known)
            text = "is approved no more" if done else "was not approved"
            data = {"plan": known.plan.plan, "kind": known.kind}
            out.result("taken-back" if done else "nothing-to-do", data, f"The plan {known.plan.plan} {text}.")
            return
        if known.approval is None and not by and somebody_is_there():
            out.note(_asks(known))
            by = typer.prompt("Who agrees to this? (empty: nobody)", default="", err=True)
        if by and known.approval is None:
            known = job.approve(site, known, by)
            out.result("approved", known.as_data(), f"{by} has agreed. Next: fedsite train-round")
            return
    out.result("nothing-to-do" if known.approval else "shown", known.as_data(), _asks(known))


def _asks(known: "Known") -> str:
    """What the plan asks for, in lines; all of it stands in the answer to --json."""
    plan, local, asked = known.plan, known.plan.local, known.plan.privacy
    network = ", ".join(f"{name} {value}" for name, value in plan.network.settings.items())
    rows = {
        "plan": f"{plan.plan}, first offered in round {known.first_round}",
        "kind": known.kind,
        "task": f"{plan.task}, from {', '.join(plan.channels)} ({plan.preparation.input_state})",
        "network": f"{plan.network.name} ({network})" if network else plan.network.name,
        "algorithm": plan.algorithm_name,
        "a round": f"{local.steps} steps of {local.batch_size * local.accumulation} patches",
        "mechanism": f"{asked.mechanism}, clip norm {asked.clip_norm:g}, noise multiplier {asked.noise_multiplier:g}",
        "update": f"{plan.payload}, norm at most {plan.max_update_norm:g}, weights {plan.weights}",
        "expires": f"{plan.expires:%Y-%m-%d %H:%M %Z}",
        "approved": f"by {known.approval.by}, {known.approval.at}" if known.approval else "by nobody",
    }
    if asked.mechanism == "dp-sgd":
        rows["a round"] = f"{local.steps} steps of {asked.batch_patients} patients on average"
    return "\n".join(f"  {name:<11}{text}" for name, text in rows.items())
