"""`fedsite inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console

    from fedsite.dicom.checks import Finding
    from fedsite.dicom.model import Volume
    from fedsite.jobs.inspect import Inspection

_PER_RUN = "This machine is not set up as a site: the ids are of this run only."


def inspect(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A folder of DICOM files, searched with all its subfolders.")],
    volumes: Annotated[
        Path | None, typer.Option(help="Folder to write each accepted volume to, as ID.nii.gz on its own grid.")
    ] = None,
) -> None:
    """Shows what is in a DICOM export: every volume, whether it can be used, and if not, why.

    Needs neither a task nor a configuration. SOURCE is only read.
    """
    from fedsite.jobs import inspect as job

    output = Output.of(context)
    found = job.inspect(output.config_path, source, volumes, output.step)
    if not found.lasting:
        output.note(_PER_RUN)
    output.result("inspected", _data(found), lambda console: _show(console, found))


def _data(found: "Inspection") -> dict[str, Any]:
    return {
        "ids": "site" if found.lasting else "run",
        "files": found.inventory.files,
        "series": [_volume(volume) for volume in found.inventory.volumes],
        "findings": [_finding(each) for each in found.inventory.findings],
    }


def _volume(volume: "Volume") -> dict[str, Any]:
    known = bool((volume.affine == volume.affine).all())  # NaN stands for an unknown geometry
    return {
        "id": volume.id,
        "series": volume.series,
        "study": volume.study,
        "patient": volume.patient,
        "modality": volume.modality,
        "shape": list(volume.shape),
        "affine": volume.affine.tolist() if known else None,
        "part": volume.part,
        "b_value": volume.b_value,
        "directionality": volume.directionality,
        "verdict": volume.verdict,
        "findings": [_finding(each) for each in volume.findings],
    }


def _finding(found: "Finding") -> dict[str, str]:
    return {"id": found.id, "severity": found.severity, "message": found.message, "mend": found.mend}


def _show(console: "Console", found: "Inspection") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("Volume", "Kind", "Part", "Voxels", "Spacing (mm)", "Verdict"):
        table.add_column(heading, no_wrap=heading == "Volume")
    table.add_column("Why", ratio=1)
    for volume in found.inventory.volumes:
        table.add_row(*map(Text, _row(volume)))
    console.print(table)
    accepted = sum(1 for volume in found.inventory.volumes if volume.verdict == "accepted")
    refused = len(found.inventory.volumes) - accepted
    console.print(f"{found.inventory.files} files: {accepted} volumes accepted, {refused} refused.", markup=False)
    for each in found.inventory.findings:
        console.print(f"{each.message} {each.mend}", markup=False)


def _row(volume: "Volume") -> list[str]:
    reasons = [each.message for each in volume.findings if each.severity == "error"]
    remarks = [each.message for each in volume.findings]
    known = all(side == side for side in volume.spacing)
    return [
        volume.id,
        volume.modality,
        volume.part or "",
        " x ".join(str(side) for side in volume.shape),
        " x ".join(f"{side:.3g}" for side in volume.spacing) if known else "",
        volume.verdict,
        " ".join(reasons or remarks),
    ]
