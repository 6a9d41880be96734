"""`fedsite model`: the first model of a plan, and the models that the rounds have made."""

from pathlib import Path
from typing import Annotated

import typer

from fedsite.cli.federation import HERE, Folder
from fedsite.cli.output import Output
from fedsite.errors import SourceMissing, UsageError

app = typer.Typer(help="Global models: make the first, list them, take one out.", no_args_is_help=True)


@app.command()
def init(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="The plan (YAML, see sample_configs/plan.yaml).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the model.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
    task: Annotated[Path | None, typer.Option(help="The file of the plan's task, where it is sites' own.")] = None,
) -> None:
    """Makes model 0 of a plan: its network with fresh weights (needs torch)."""
    from fedsite.jobs import model, tasks
    from fedsite.wire.plans import read_draft

    out = Output.of(context)
    draft = tasks.described_by(read_draft(plan), task)
    with out.step("Building the network"):
        made = model.init(draft, output, seed)
    data = {"path": str(output), "sha256": made.sha256, "bytes": made.bytes, "values": made.values, "seed": seed}
    text = f"{output}: {made.values:,} values in {made.tensors} tensors, SHA-256 {made.sha256}."
    out.result("written", data, text)


@app.command("list")
def list_models(context: typer.Context, folder: Folder = HERE) -> None:
    """Lists the federation's models; `round` is the one that made it."""
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import models

    found = models(open_federation(folder))
    lines = [
        f"{one['sha256']}  {one['bytes']:>12,} bytes  {one['created']}  "
        + (f"round {one['round']}" if one["round"] else "brought")
        for one in found
    ]
    Output.of(context).result("listed", {"models": found}, "\n".join(lines))


@app.command()
def export(
    context: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the model (safetensors).")],
    sha256: Annotated[str | None, typer.Argument(metavar="SHA256", help="The model, or its first digits.")] = None,
    number: Annotated[int | None, typer.Option("--round", help="The round that made the model.")] = None,
    folder: Folder = HERE,
) -> None:
    """Writes a model of the federation to a file."""
    from fedsite.files import atomic_writer, sha256_of
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import find_model

    if (sha256 is None) == (number is None):
        raise UsageError("Name one model: by its SHA-256, or by --round.")
    federation = open_federation(folder)
    found = find_model(federation, sha256, number)
    source = federation.models.path(found)
    if sha256_of(source) != found:
        raise SourceMissing(f"The model {found} in {folder} is damaged.", "Restore the folder from a backup.")
    with source.open("rb") as stored, atomic_writer(output) as written:
        while block := stored.read(1 << 20):
            written.write(block)
    data = {"path": str(output), "sha256": found, "bytes": output.stat().st_size}
    Output.of(context).result("written", data, f"{output}: {found}")
