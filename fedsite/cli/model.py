"""`fedsite model`: the first model of a plan, and the models that the rounds have made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.commands import Commands
from fedsite.cli.federation import HERE, Folder
from fedsite.cli.output import Output
from fedsite.errors import SourceMissing, UsageError

if TYPE_CHECKING:
    from fedsite.server.federation import Federation

app = Commands("Global models: make the first, list them, take one out.")

Sha256 = Annotated[str | None, typer.Argument(metavar="SHA256", help="The model, or its first digits.")]
Round = Annotated[int | None, typer.Option("--round", metavar="ROUND", help="The round that made the model.")]


@app.command()
def init(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="The plan (YAML, see sample_configs/plan.yaml).")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the model.")],
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The same seed gives the same weights.")] = 0,
    task: Annotated[
        Path | None, typer.Option(metavar="TASK.yaml", help="The file of the plan's task, where it is sites' own.")
    ] = None,
) -> None:
    """Makes model 0 of a plan: its network with fresh weights (needs torch)."""
    from fedsite.jobs import tasks
    from fedsite.jobs.models import initial
    from fedsite.wire.plans import read_draft

    out = Output.of(context)
    draft = tasks.described_by(read_draft(plan), task)
    with out.step("Building the network"):
        made = initial.init(draft, output, seed)
    data = {"path": str(output), "sha256": made.sha256, "bytes": made.bytes, "values": made.values, "seed": seed}
    text = f"{output}: {made.values:,} values in {made.tensors} tensors, SHA-256 {made.sha256}."
    out.result("written", data, text)


@app.command("list")
def list_models(context: typer.Context, folder: Folder = HERE) -> None:
    """Lists the federation's models, and what each was made of."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds.reports import models

    found = models(open_federation(folder))
    lines = [f"{one['sha256']}  {one['bytes']:>12,} bytes  {one['created']}  {_origin(one)}" for one in found]
    Output.of(context).result("listed", {"models": found}, "\n".join(lines))


@app.command()
def show(
    context: typer.Context,
    sha256: Sha256 = None,
    number: Round = None,
    folder: Folder = HERE,
) -> None:
    """Shows where a model comes from: plan, ticket, contributions, and the models before it."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds.reports import model_report

    federation = open_federation(folder)
    report = model_report(federation, _named(federation, sha256, number))
    Output.of(context).result("shown", report, _lineage(report))


@app.command()
def export(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the model (safetensors).")
    ],
    sha256: Sha256 = None,
    number: Round = None,
    folder: Folder = HERE,
) -> None:
    """Writes a model of the federation to a file."""
    from fedsite.files import atomic_writer
    from fedsite.server.federation import open_federation

    federation = open_federation(folder)
    found = _named(federation, sha256, number)
    source = _stored(federation, found)
    with source.open("rb") as stored, atomic_writer(output) as written:
        while block := stored.read(1 << 20):
            written.write(block)
    data = {"path": str(output), "sha256": found, "bytes": output.stat().st_size}
    Output.of(context).result("written", data, f"{output}: {found}")


@app.command()
def bundle(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="A new folder, called as the model is to be.")
    ],
    sha256: Sha256 = None,
    number: Round = None,
    task: Annotated[
        Path | None, typer.Option(metavar="TASK.yaml", help="The file of the plan's task, where it is sites' own.")
    ] = None,
    folder: Folder = HERE,
) -> None:
    """Writes a model as a MONAI bundle, which runs where there is MONAI and no fedsite (needs torch)."""
    from fedsite.jobs import tasks
    from fedsite.jobs.models import bundle as bundles
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds.reports import model_report, plan_of_model

    out, federation = Output.of(context), open_federation(folder)
    found = _named(federation, sha256, number)
    plan = tasks.described_by(plan_of_model(federation, found), task)
    source = bundles.Source(_stored(federation, found), plan, model_report(federation, found))
    with out.step("Writing the bundle"):
        bundles.write(output, source)
    run = "python -m monai.bundle run --config_file configs/inference.json"
    out.result("written", {"path": str(output), "sha256": found}, f"{output}: {found}\nTo run it, there: {run}")


def _named(federation: "Federation", sha256: str | None, number: int | None) -> str:
    """The digest of the one model that is meant. Raises UsageError."""
    from fedsite.server.rounds.reports import find_model

    if (sha256 is None) == (number is None):
        raise UsageError("Name one model: by its SHA-256, or by --round.")
    return find_model(federation, sha256, number)


def _stored(federation: "Federation", sha256: str) -> Path:
    """Where a model's file is. Raises SourceMissing unless it is whole."""
    from fedsite.files import sha256_of

    path = federation.models.path(sha256)
    if sha256_of(path) != sha256:
        raise SourceMissing(
            f"The model {sha256} in {federation.folder} is damaged.", "Restore the folder from a backup."
        )
    return path


def _origin(model: dict[str, Any]) -> str:
    if not model["round"]:
        return "brought"
    return f"round {model['round']} of {model['plan']}, {model['updates']} updates"


def _lineage(report: dict[str, Any]) -> str:
    facts = [("model", f"{report['sha256']}, {report['bytes']:,} bytes"), ("came", report["created"])]
    facts += [("made by", _origin(report))]
    made = report["made_in"]
    if made is not None:
        facts += [("plan", report["plan_sha256"]), ("ticket", report["ticket_sha256"])]
        facts += [("began from", report["from_sha256"])]
        for one in made["took_part"]:
            facts.append(("update", f"{one['update_sha256']}  {one['bytes']:>12,} bytes  {one['site']}"))
        for one in made["left_out"]:
            facts.append(("left out", f"{one['update_sha256']}  {one['bytes']:>12,} bytes  {one['site']}"))
    for one in report["line"][1:]:
        origin = f"round {one['round']}" if one["round"] else "brought"
        facts.append(("before it", f"{one['sha256']}  {origin}"))
    rounds = ", ".join(str(number) for number in report["starts"])
    facts += [("begins", f"round {rounds}")] if rounds else []
    return "\n".join(f"{name:10} {value}" for name, value in facts)
