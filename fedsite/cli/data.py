"""`fedsite data`: what is prepared, where it came from, and whom to leave out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsite.cli.asking import confirm
from fedsite.cli.commands import Commands
from fedsite.cli.output import Output
from fedsite.errors import UsageError

if TYPE_CHECKING:
    from fedsite.dataset.locate import Located
    from fedsite.dataset.manifest import Manifest
    from fedsite.jobs.data.prepared import Withdrawal, Withdrawn

app = Commands("What is prepared at this site.")
Folder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="A prepared folder; default: paths.data of the configuration."),
]


@app.command("list")
def list_cases(context: typer.Context, folder: Folder = None) -> None:
    """Lists the prepared cases, and the studies that were left out with their reason, by pseudonym."""
    from fedsite.jobs.data import prepared as job

    out = Output.of(context)
    manifest = job.listed(out.config_path, folder)
    found = manifest.model_dump(mode="json", exclude={"schema_version": True, "excluded": {"__all__": {"fingerprint"}}})
    out.result("listed", found, _listing(manifest))


@app.command()
def locate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="A patient (p-...), study (e-...) or series (s-...).")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The DICOM export or BIDS folder to look in.")],
    files: Annotated[bool, typer.Option("--files", help="Name every file, not only the first and last.")] = False,
) -> None:
    """Finds a study again: shows on the terminal, and only there, where its files lie in a source."""
    from fedsite.jobs.data import prepared as job

    out = Output.of(context)
    if out.as_json or not sys.stdout.isatty():
        raise UsageError(
            "fedsite data locate answers on a terminal only: paths may name patients and must not land in a log.",
            "Run it in a terminal, without --json and without sending its output elsewhere.",
        )
    found = job.find_files(out.config_path, name, source, out.step)
    out.result("located", human="\n".join(line for located in found for line in _places(located, files)))


@app.command()
def exclude(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="ID", help="A patient (p-...), or one of the patient's studies (e-...).")
    ],
    folder: Folder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where there is no terminal.")] = False,
) -> None:
    """Withdraws a patient for ever: audited, prepared cases removed, later preparations leave the patient out."""
    from fedsite.jobs.data import prepared as job

    out = Output.of(context)
    asked = job.find_withdrawal(out.config_path, name, folder)
    out.note(_question(asked))
    if not (asked.prepared or asked.left_out or asked.recorded):
        out.warn("No study of this patient is known here: check the id.")
    if not yes:
        confirm("Withdraw this patient?")
    done = job.withdraw(out.config_path, asked.patient, folder, out.step)
    outcome = "excluded" if done.recorded or done.files else "nothing-to-do"
    found = {"patient": done.patient, "recorded": done.recorded, "files_removed": done.files}
    out.result(outcome, found, _told(done))


def _question(asked: "Withdrawal") -> str:
    if asked.recorded:
        return f"Patient {asked.patient} is withdrawn already; what may be left is removed."
    prepared = ", ".join(asked.prepared) or "none"
    left_out = f"; left out: {', '.join(asked.left_out)}" if asked.left_out else ""
    return f"Patient {asked.patient}. Prepared studies: {prepared}{left_out}."


def _told(done: "Withdrawn") -> str:
    if not (done.recorded or done.files):
        return f"Patient {done.patient} was withdrawn before, and nothing was left."
    return (
        f"Patient {done.patient} is withdrawn; {done.files} case file(s) removed."
        " Reports and folders that you named yourself (--report, --out) are yours to remove."
    )


def _listing(manifest: "Manifest") -> str:
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
    return "\n".join(lines)


def _places(located: "Located", all_files: bool) -> list[str]:
    """A series' files by folder (or archive): all of them, or the first, the last and how many."""
    lines = [f"{located.series}  study {located.study}  patient {located.patient}"]
    places: dict[str, list[str]] = {}
    for path, member in located.files:
        place, name = (path, member) if member else (str(Path(path).parent), Path(path).name)
        places.setdefault(place, []).append(name)
    for place, names in places.items():
        if all_files:
            lines += [f"  {place}: {name}" for name in names]
        elif len(names) == 1:
            lines.append(f"  {place}: {names[0]}")
        else:
            lines.append(f"  {place}: {len(names)} files, {names[0]} to {names[-1]}")
    return lines
