"""`fedsite status`."""

import textwrap
from typing import Any

import typer

from fedsite.cli.output import Output


def status(context: typer.Context) -> None:
    """Shows on one screen who this site is, its data, its last rounds and its privacy budget."""
    from fedsite.jobs import status as job

    out = Output.of(context)
    data = job.status(out.config_path)
    out.result("shown", data, _screen(data))


def _screen(data: dict[str, Any]) -> str:
    """One screen of 80 columns: a name, then what there is to say of it."""
    identity, cases, privacy = data["identity"], data["data"], data["privacy"]
    rows: list[tuple[str, str]] = []
    if identity is None:
        rows.append(("Site", "not enrolled; next: fedsite enroll --invitation FILE"))
    else:
        rows.append(("Site", f"{identity['site']} in federation {identity['federation']}"))
        rows.append(("Server", identity["server"]))
        rows.append(("Certificate", f"{identity['days_left']:.0f} days left"))
    if cases is None:
        rows.append(("Data", "none prepared; next: fedsite prepare-data SOURCE --task TASK"))
    else:
        rows.append(("Data", f"{cases['training']} training, {cases['validation']} held out ({cases['task']})"))
    rows.append(("Privacy", privacy["guarantee"]))
    rows.append(("Budget", f"epsilon {privacy['budget']:,.4g}, {privacy['releases']} releases so far"))
    rows += [(f"Round {one['round']}", f"{one['state']}, {one['changed']}") for one in data["rounds"]]
    if not data["rounds"]:
        rows.append(("Rounds", "none yet"))
    return "\n".join(
        textwrap.fill(text, 80, initial_indent=f"{name:<13}", subsequent_indent=" " * 13) for name, text in rows
    )
