"""`fedsite prepare-data`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.jobs.data.prepare import Done


def prepare_data(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A DICOM export, or a public data set of NIfTI images with masks.")
    ],
    task: Annotated[str, typer.Option(metavar="TASK", help="What the data are for; see: fedsite tasks list.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of NIfTI masks, named after a UID, AccessionNumber or PatientID."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where cases go; default: paths.data of the configuration.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that work side by side.")] = 1,
    check_only: Annotated[bool, typer.Option("--check-only", help="Check everything, write only the report.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the HTML report goes; default: beside the cases.")
    ] = None,
    input_state: Annotated[
        Literal["whole-head", "skull-stripped"] | None,
        typer.Option(help="Which kind to keep where the source mixes both."),
    ] = None,
    resample: Annotated[
        str,
        typer.Option(
            metavar="FAULTS", help="What to mend by resampling instead of refusing it: tilt, uneven, or tilt,uneven."
        ),
    ] = "",
    dask: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster whose workers prepare the studies.")
    ] = "",
    layout: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="How a public data set is laid out, where that cannot be told; see: fedsite tasks show.",
        ),
    ] = "",
) -> None:
    """Turns an export into cases that a model can learn from, and reports what was left out and why."""
    from fedsite.dicom import regrid
    from fedsite.jobs.data import prepare as job

    out_put = Output.of(context)
    order = job.Order(
        source, task, labels, out, workers, check_only, report, input_state, regrid.chosen(resample), layout, dask
    )
    done = job.prepare_data(out_put.config_path, order, out_put.step)
    manifest = done.prepared.manifest
    for remark in manifest.findings:
        out_put.warn(f"{remark.message} {remark.mend}")
    outcome = "checked" if check_only else "prepared" if done.prepared.changed else "nothing-to-do"
    out_put.result(outcome, _data(done, check_only), _summary(done, check_only))


def _data(done: "Done", check_only: bool) -> dict[str, Any]:
    prepared, manifest = done.prepared, done.prepared.manifest
    return {
        "task": manifest.task,
        "source": manifest.source,
        "spacing_mm": manifest.spacing_mm,
        "input_state": manifest.input_state,
        "cases": len(manifest.cases),
        "patients": len({case.patient for case in manifest.cases}),
        "training": len(manifest.of_split("training")),
        "validation": len(manifest.of_split("validation")),
        "new": prepared.new,
        "unchanged": prepared.unchanged,
        "removed": prepared.removed,
        "excluded": [study.model_dump(exclude={"fingerprint"}) for study in manifest.excluded],
        "findings": [remark.model_dump() for remark in manifest.findings],
        "folder": None if check_only else str(done.out),
        "report": str(done.report),
    }


def _summary(done: "Done", check_only: bool) -> str:
    prepared, manifest = done.prepared, done.prepared.manifest
    patients = len({case.patient for case in manifest.cases})
    held_out = len(manifest.of_split("validation"))
    verb = "Checked, and nothing stored" if check_only else f"Prepared in {done.out}"
    changes = "" if check_only else f" ({prepared.new} new, {prepared.unchanged} unchanged, {prepared.removed} removed)"
    lines = [
        f"{verb}: {len(manifest.cases)} cases of {patients} patients{changes}, {held_out} held out for validation.",
        f"All {manifest.input_state}, {' x '.join(f'{side:g}' for side in manifest.spacing_mm)} mm.",
    ]
    if manifest.excluded:
        reasons = Counter(study.reason.id for study in manifest.excluded)
        counted = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        lines.append(f"Left out: {len(manifest.excluded)} studies ({counted}).")
    lines.append(f"Report: {done.report}")
    return "\n".join(lines)
