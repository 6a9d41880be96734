"""`fedsite inspect`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console

    from fedsite.dicom.checks import Finding
    from fedsite.dicom.model import Volume
    from fedsite.jobs.data.inspect import Inspection

_PER_RUN = "This machine is not set up as a site: the ids are of this run only."


def inspect(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A DICOM export: a folder and all below it, a zip archive, or a DICOMDIR."
        ),
    ],
    volumes: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write each accepted volume to, as ID.nii.gz on its own grid."),
    ] = None,
    resample: Annotated[
        str,
        typer.Option(
            metavar="FAULTS", help="What to mend by resampling instead of refusing it: tilt, uneven, or tilt,uneven."
        ),
    ] = "",
) -> None:
    """Shows what is in a DICOM export: every volume, whether it can be used, and if not, why."""
    from fedsite.dicom import regrid
    from fedsite.jobs.data import inspect as job

    output = Output.of(context)
    found = job.inspect(output.config_path, source, volumes, output.step, resample=regrid.chosen(resample))
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

    inventory = found.inventory
    table = Table(box=None, pad_edge=False)
    for heading in ("Volume", "Kind", "Part", "Voxels", "Spacing (mm)", "Verdict", "Findings"):
        table.add_column(heading, no_wrap=heading not in ("Part", "Findings"), overflow="fold")
    for volume in inventory.volumes:
        table.add_row(*map(Text, _row(volume)))
    console.print(table)
    remarks = [each for volume in inventory.volumes for each in volume.findings]
    for rule, count in Counter(each.id for each in remarks).most_common():
        first = next(each for each in remarks if each.id == rule)
        _say(console, f"{rule} ({count}): {first.message} {first.mend}")
    accepted = sum(1 for volume in inventory.volumes if volume.verdict == "accepted")
    _say(console, f"{inventory.files} files: {accepted} accepted, {len(inventory.volumes) - accepted} refused.")
    for each in inventory.findings:
        _say(console, f"{each.message} {each.mend}")


def _say(console: "Console", line: str) -> None:
    console.print(line, markup=False)


def _row(volume: "Volume") -> list[str]:
    known = all(side == side for side in volume.spacing)
    return [
        volume.id,
        volume.modality,
        volume.part or "",
        "x".join(str(side) for side in volume.shape) if all(volume.shape) else "",
        "x".join(f"{side:.3g}" for side in volume.spacing) if known else "",
        volume.verdict,
        ", ".join(each.id for each in volume.findings),
    ]
