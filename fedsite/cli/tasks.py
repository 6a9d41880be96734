"""`fedsite tasks`: what can be learned, and what it needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.commands import Commands
from fedsite.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsite.tasks.description import Channel, Layout, Task

app = Commands("What can be learned, and what it needs.")


@app.command("list")
def list_tasks(context: typer.Context) -> None:
    """Lists the tasks that this fedsite knows, the site's own among them."""
    from fedsite.jobs.tasks import known

    tasks = known(Output.of(context).config_path)
    data = [{"name": task.name, "title": task.title, "base": task.base} for task in tasks]
    width = max(len(task.name) for task in tasks)
    own = {True: "  (this site's own)", False: ""}
    lines = [f"{task.name:<{width}}  {task.title}{own[bool(task.base)]}" for task in tasks]
    Output.of(context).result("listed", {"tasks": data}, "\n".join(lines))


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TASK", help="A task's name, as listed, or the file of an own one.")],
) -> None:
    """Shows a task: what data it needs, its channels, labels, layouts and networks with the ranges of settings."""
    from fedsite.jobs.tasks import known, read_own
    from fedsite.tasks import registry

    if Path(name).suffix in {".yaml", ".yml"}:
        task = read_own(Path(name))
    else:
        known(Output.of(context).config_path)
        task = registry.get(name)
    Output.of(context).result("shown", _data(task), "\n".join(_lines(task)))


def _data(task: "Task") -> dict[str, Any]:
    return {
        "name": task.name,
        "title": task.title,
        "base": task.base,
        "digest": task.digest,
        "reference": task.reference,
        "notes": task.notes,
        "channels": [vars(channel) | {"inputs": list(channel.inputs)} for channel in task.channels],
        "labels": {str(value): meaning for value, meaning in task.labels.items()},
        "regions": {region.name: list(region.values) for region in task.regions},
        "layouts": [vars(layout) for layout in task.layouts],
        "default_spacing_mm": list(task.default_spacing_mm),
        "default_patch_voxels": list(task.default_patch_voxels),
        "input_states": list(task.input_states),
        "body_part": task.body_part,
        "allows_lossy": task.allows_lossy,
        "allows_reformats": task.allows_reformats,
        "networks": [
            {
                "name": network.name,
                "summary": network.summary,
                "settings": {key: vars(allowed) for key, allowed in network.settings.items()},
            }
            for network in task.networks
        ],
    }


def _lines(task: "Task") -> "Iterator[str]":
    """The screen of one task."""
    yield f"{task.name}: {task.title}"
    yield from (
        line for line in (task.base and f"This site's own, after {task.base}", task.reference, task.notes) if line
    )
    yield from ("", "Channels", *(line for channel in task.channels for line in _channel(channel)))
    yield from ("", "Labels", *(f"  {value}: {meaning}" for value, meaning in task.labels.items()))
    if task.regions:
        yield from ("", "Regions, one in the other")
        yield from (f"  {region.name}: {' + '.join(map(str, region.values))}" for region in task.regions)
    yield from ("", "Needs", *(f"  {need}" for need in _needs(task)))
    yield from ("", "Layouts", "  dicom: an export in any form (fedsite inspect)")
    yield from (f"  {layout.name}: {_layout(layout)}" for layout in task.layouts)
    yield from ("", f"Spacing  {_by(task.default_spacing_mm)} mm", f"Patch    {_by(task.default_patch_voxels)} voxels")
    yield from ("", "Networks")
    for network in task.networks:
        yield f"  {network.name}: {network.summary}"
        yield from (f"    {key}: {allowed}, default {allowed.default}" for key, allowed in network.settings.items())
    yield from ("", f"Digest   {task.digest}")


def _channel(channel: "Channel") -> "Iterator[str]":
    facts = [channel.modality]
    if channel.b_values:
        facts.append(f"b {channel.b_values[0]:g} to {channel.b_values[1]:g} s/mm2")
    agent = {None: "", True: ", ce-"}[channel.contrast_agent or None]
    optional = ", optional" if channel.optional else ""
    yield f"  {channel.name}: {channel.summary} ({', '.join(facts)}; BIDS {channel.bids_suffix}{agent}){optional}"
    if channel.windows:
        yield f"    seen through {', '.join(f'{low:g} to {high:g}' for low, high in channel.windows)} HU"


def _needs(task: "Task") -> "Iterator[str]":
    yield "a mask for each study, whose values are the labels above"
    yield f"images of the {task.body_part.lower()}" if task.body_part else "images of any part of the body"
    yield " or ".join(task.input_states).replace("-", " ") + ", the same in all studies"
    yield f"compression with loss: {'allowed' if task.allows_lossy else 'refused'}"
    yield f"reformats: {'allowed' if task.allows_reformats else 'refused'}"


def _layout(layout: "Layout") -> str:
    """How a data set lies, and what its values become."""
    facts = {
        "bids": "NIfTI in BIDS",
        "decathlon": f"NIfTI in {layout.folders[0]} and {layout.folders[1]}",
        "brats": "NIfTI, a folder for each patient",
    }
    files = ", ".join(f"{name} is {where}" for name, where in layout.images.items())
    changed = ", ".join(f"{stored} becomes {value}" for stored, value in layout.label_values.items() if stored != value)
    return "; ".join(part for part in (facts[layout.kind], files, changed and f"in masks {changed}") if part)


def _by(sides: tuple[float, ...]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
