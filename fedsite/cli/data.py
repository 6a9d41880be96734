"""`fedsite data`: what is prepared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console

    from fedsite.dataset.manifest import Manifest

app = typer.Typer(help="What is prepared at this site.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """What is prepared at this site."""


@app.command("list")
def list_cases(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--data", help="A prepared folder; default: paths.data of the configuration.")
    ] = None,
) -> None:
    """Lists the prepared cases, and the studies that were left out with their reason, by pseudonym."""
    from fedsite.jobs import prepare as job

    out = Output.of(context)
    manifest = job.listed(out.config_path, folder)
    found = manifest.model_dump(mode="json", exclude={"schema_version": True, "excluded": {"__all__": {"fingerprint"}}})
    out.result("listed", found, lambda console: _show(console, manifest))


def _show(console: "Console", manifest: "Manifest") -> None:
    """One line a case, whole whatever the terminal's width: pseudonyms are there to be copied."""
    spacing = " x ".join(f"{side:g}" for side in manifest.spacing_mm)
    lines = [f"Task {manifest.task}, {manifest.input_state}, {spacing} mm: {len(manifest.cases)} cases"]
    for case in manifest.cases:
        warnings = ", ".join(remark.id for remark in case.findings)
        line = f"{case.id}  {case.patient}  {case.split:<10}  {case.lesion_ml:>7.1f} ml  {case.scanner}  {warnings}"
        lines.append(line.rstrip())
    if manifest.excluded:
        lines += ["", f"Left out: {len(manifest.excluded)}"]
    lines += [f"{study.id}  {study.patient}  {study.reason.id}: {study.reason.message}" for study in manifest.excluded]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
