"""`fedsite predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.jobs.models.predict import Predicted, Prediction


def predict(
    context: typer.Context,
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A DICOM export with the study (folder, zip), or NIfTI images.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; not within STUDY.")],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="The study, or the image, that is meant where there are several: its id."),
    ] = None,
    every_study: Annotated[bool, typer.Option("--all", help="Take every study of the source.")] = False,
    as_nifti: Annotated[bool, typer.Option("--nifti", help="Write NIfTI instead of a DICOM segmentation.")] = False,
    personalised: Annotated[bool, typer.Option("--personalized", help="Use this site's personalised model.")] = False,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="Use this model file (safetensors).")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN.yaml", help="The plan (YAML) of --model; default: the newest that this site has met."
        ),
    ] = None,
    resample: Annotated[
        str,
        typer.Option(
            metavar="FAULTS", help="What to mend by resampling instead of refusing it: tilt, uneven, or tilt,uneven."
        ),
    ] = "",
    layout: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT", help="How NIfTI images are laid out, where that cannot be told; see: fedsite tasks show."
        ),
    ] = "",
) -> None:
    """Segments a new study with the newest global model, or another; for research use only."""
    from fedsite.dicom import regrid
    from fedsite.jobs.models import predict as job

    output = Output.of(context)
    order = job.Order(
        source=study,
        out=out,
        only=frozenset(only or ()),
        every_study=every_study,
        as_nifti=as_nifti,
        resample=regrid.chosen(resample),
        layout=layout,
        model=model,
        plan=plan,
        personalised=personalised,
    )
    found = job.predict(output.config_path, order, output.step, output.warn)
    for refused in found.refused:
        output.warn(f"Study {refused.id} was refused: {refused.reason.message} {refused.reason.mend}")
    output.result("predicted", _data(found), _text(found, job.RESEARCH))


def _data(found: "Predicted") -> dict[str, Any]:
    return {
        "model": {"sha256": found.model.sha256, "kind": found.model.kind, "after_round": found.model.after_round},
        "use": "research",
        "studies": [_study(one) for one in found.predictions],
        "refused": [study.model_dump(exclude={"fingerprint"}) for study in found.refused],
    }


def _study(found: "Prediction") -> dict[str, Any]:
    return {
        "id": found.study,
        "image": found.image,
        "missing": list(found.missing),
        "structures": {name: {"ml": one.ml, "lesions": one.lesions} for name, one in found.structures.items()},
        "files": [str(path) for path in found.files],
        "findings": [{"id": each.id, "message": each.message, "mend": each.mend} for each in found.findings],
    }


def _text(found: "Predicted", research: str) -> str:
    lines = [f"The {found.model.title} ({found.model.sha256[:12]}):"]
    for one in found.predictions:
        lines.append(f"Study {one.study}")
        lines += [f"  {name}: {part.ml:.1f} ml in {part.lesions} part(s)" for name, part in one.structures.items()]
        lines += [f"  {path}" for path in one.files]
        lines += [f"  Without {name}: zeros stood for it." for name in one.missing]
        lines += [f"  Note: {each.message} {each.mend}" for each in one.findings]
    return "\n".join([*lines, research])
