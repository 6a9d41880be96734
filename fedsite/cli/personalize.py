"""`fedsite personalize`."""

from typing import TYPE_CHECKING, Annotated

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.jobs.models.personalize import Personalised


def personalize(
    context: typer.Context,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Optimiser steps; default: personalization.steps in site.yaml."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0, metavar="RATE", help="Learning rate; default: personalization.learning_rate in site.yaml."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The same seed gives the same model on a CPU.")] = 0,
) -> None:
    """Trains the newest global model on with this site's own cases. The result stays at home."""
    from fedsite.jobs.models import personalize as job
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path, out.warn) as site:
        found = job.personalise(site, job.Asked(steps, learning_rate, seed), out.step)
    data = {**found.record.model_dump(exclude={"plan"}), "steps_taken": found.steps_taken, "kept": found.kept}
    out.result("personalized" if found.kept else "not-better", data, _text(found))


def _text(found: "Personalised") -> str:
    gain = found.record.gain
    lines = [
        f"Dice on {gain.patients} held-out patient(s): {gain.before:.3f} global, {gain.after:.3f} personalised.",
        f"Mean difference {gain.difference:+.3f}{_interval(gain.low, gain.high)}.",
    ]
    if found.kept and (gain.low is None or gain.low <= 0):
        lines.append("So few patients cannot tell this gain from chance.")
    lines.append(
        "It is this site's personalised model now: fedsite predict --personalized. It never leaves."
        if found.kept
        else "It does no better than the global model, and was not kept."
    )
    return "\n".join(lines)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" (95% interval {low:+.3f} to {high:+.3f})"
