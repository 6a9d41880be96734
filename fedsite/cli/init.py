"""`fedsite init`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from fedsite.cli.asking import somebody_is_there
from fedsite.cli.output import Output
from fedsite.errors import UsageError

Value = TypeVar("Value", str, int, float, Path)


def init(
    context: typer.Context,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The state folder: identity, ledger, audit.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where prepared cases will lie.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="A task that this site allows; repeat for several.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(min=0, metavar="E", help="Privacy budget epsilon of this ledger, per patient, for ever."),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(min=0, max=0.1, metavar="D", help="Its delta, a chance: below 1 / patients, such as 1e-6."),
    ] = None,
    nominal_patients: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="About how many patients the site has; fedsite never counts them."),
    ] = None,
) -> None:
    """Sets this site up: a commented site.yaml, the state folder, the privacy ledger."""
    from platformdirs import user_config_path, user_data_path

    from fedsite.jobs import init as job
    from fedsite.tasks import registry

    out = Output.of(context)
    path = out.config_path or user_config_path("fedsite") / "site.yaml"
    tasks = tuple(task or registry.names())
    for name in tasks:
        registry.get(name)
    home = user_data_path("fedsite")
    answers = job.Answers(
        state=_ask("State folder", "--state", state, Path, str(home / "state")).absolute(),
        data=_ask("Folder of prepared data", "--data", data, Path, str(home / "data")).absolute(),
        tasks=tasks,
        epsilon=_ask("Privacy budget epsilon (cannot be changed later)", "--epsilon", epsilon, float, "8"),
        delta=_ask("delta, below 1 / patients (cannot be changed later)", "--delta", delta, float, "1e-6"),
        nominal_patients=_ask(
            "About how many patients (cannot be changed later)", "--nominal-patients", nominal_patients, int, None
        ),
    )
    terms = job.initialise(path.absolute(), answers)
    out.result(
        "initialised",
        {
            "config": str(path.absolute()),
            "state": str(answers.state),
            "epsilon": terms.epsilon,
            "delta": terms.delta,
            "order": terms.order,
            "nominal_patients": terms.nominal_patients,
        },
        f"Wrote {path.absolute()} and the state folder {answers.state}.\n"
        f"Budget: epsilon {terms.epsilon:g} per patient (add or remove one), delta {terms.delta:g}.\n"
        "Next: fedsite enroll --invitation FILE",
    )


def _ask(question: str, option: str, given: Value | None, kind: Callable[[str], Value], default: str | None) -> Value:
    """The option's value; else an answer on a terminal; else, without a terminal, an error that names the option."""
    if given is not None:
        return given
    if not somebody_is_there():
        raise UsageError(
            f"{option} is needed: it is asked only on a terminal.", "fedsite init --help lists the options."
        )
    answer: str = typer.prompt(question, default=default, err=True)
    try:
        return kind(answer)
    except ValueError:
        raise UsageError(f"{answer!r} is no value for {option}.") from None
