"""`fedsite tasks`: what can be learned, and what it needs."""

from typing import TYPE_CHECKING, Annotated

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.tasks.description import Task

app = typer.Typer(help="What can be learned, and what it needs.", no_args_is_help=True)


@app.command("list")
def list_tasks(context: typer.Context) -> None:
    """Lists the tasks that this fedsite knows."""
    from fedsite.tasks import registry

    tasks = [registry.get(name) for name in registry.names()]
    data = [{"name": task.name, "title": task.title} for task in tasks]
    width = max(len(task.name) for task in tasks)
    lines = [f"{task.name:<{width}}  {task.title}" for task in tasks]
    Output.of(context).result("listed", {"tasks": data}, "\n".join(lines))


@app.command("show")
def show(context: typer.Context, name: Annotated[str, typer.Argument(help="A task's name, as listed.")]) -> None:
    """Shows a task: its channels, labels and networks with the ranges of their settings."""
    from fedsite.tasks import registry

    task = registry.get(name)
    data = {
        "name": task.name,
        "title": task.title,
        "reference": task.reference,
        "notes": task.notes,
        "channels": [vars(channel) for channel in task.channels],
        "labels": {str(value): meaning for value, meaning in task.labels.items()},
        "default_spacing_mm": list(task.default_spacing_mm),
        "input_states": list(task.input_states),
        "networks": [
            {
                "name": network.name,
                "summary": network.summary,
                "settings": {key: vars(allowed) for key, allowed in network.settings.items()},
            }
            for network in task.networks
        ],
    }
    Output.of(context).result("shown", data, "\n".join(_lines(task)))


def _lines(task: "Task") -> list[str]:
    """The screen of one task."""
    lines = [f"{task.name}: {task.title}", task.reference, task.notes, "", "Channels"]
    for channel in task.channels:
        b_values = f", b {channel.b_values[0]:g} to {channel.b_values[1]:g} s/mm2" if channel.b_values else ""
        lines.append(f"  {channel.name}: {channel.summary} ({channel.modality}{b_values}; BIDS {channel.bids_suffix})")
    lines += ["", "Labels", *[f"  {value}: {meaning}" for value, meaning in task.labels.items()], ""]
    lines += [f"Spacing  {' x '.join(f'{side:g}' for side in task.default_spacing_mm)} mm", ""]
    lines += ["Networks"]
    for network in task.networks:
        lines.append(f"  {network.name}: {network.summary}")
        lines += [f"    {key}: {allowed}, default {allowed.default}" for key, allowed in network.settings.items()]
    return lines
