"""`fedsite data`: what is prepared, where a study came from, and how a patient is withdrawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsite.dataset import manifest as manifests
from fedsite.dataset.manifest import Manifest
from fedsite.errors import SourceMissing, UsageError
from fedsite.jobs.models import evaluations, kept, personal
from fedsite.jobs.pages import writing
from fedsite.jobs.progress import Steps, silent_steps
from fedsite.jobs.site import header_index, open_site
from fedsite.site import identity, withdrawals

if TYPE_CHECKING:
    from fedsite.dataset.locate import Located


@dataclass(frozen=True)
class Withdrawal:
    """A patient who is to be withdrawn: the studies that are known of, and whether that is on record already."""

    patient: str
    prepared: tuple[str, ...]
    left_out: tuple[str, ...]
    recorded: bool


@dataclass(frozen=True)
class Withdrawn:
    """What withdrawing a patient did: whether it was recorded now, and how many case files went."""

    patient: str
    recorded: bool
    files: int


def listed(config_path: Path | None, folder: Path | None = None) -> Manifest:
    """The manifest of the prepared data: of the site's folder, or of the one that is named."""
    if folder is None:
        with open_site(config_path) as site:
            folder = site.config.paths.data
    return manifests.load(folder)


def find_files(config_path: Path | None, name: str, source: Path, step: Steps = silent_steps) -> "list[Located]":
    """The files of what this site calls `name`. For the operator's eyes alone: it holds paths (law 8).

    Raises UsageError when `name` is no pseudonym, SourceMissing when the source holds nothing of that name.
    """
    from fedsite.dataset.locate import locate

    _require_kind(name, "eps")
    with open_site(config_path) as site:
        pseudonyms = identity.pseudonyms(site.files)
        index = header_index(site.state.folder, pseudonyms)
    with step("Reading headers") as progress:
        found = locate(source, name, pseudonyms, progress, index)
    if not found:
        raise SourceMissing(
            f"The source holds nothing that this site calls {name}.",
            "Give the source that it was found in; ids hold for one site and its state folder.",
        )
    return found


def find_withdrawal(config_path: Path | None, name: str, folder: Path | None = None) -> Withdrawal:
    """Whom a patient's or study's id means. Raises UsageError, and SourceMissing when the study is not known."""
    _require_kind(name, "ep")
    with open_site(config_path) as site:
        known = _known(folder or site.config.paths.data)
        patient = name if name.startswith("p-") else known.get(name, ("", False))[0]
        if not patient:
            raise SourceMissing(
                f"No study {name} is prepared or left out here.",
                "fedsite data list shows them; a patient's id (p-...) works without any prepared data.",
            )
        studies = [(study, prepared) for study, (owner, prepared) in known.items() if owner == patient]
        return Withdrawal(
            patient=patient,
            prepared=tuple(study for study, prepared in studies if prepared),
            left_out=tuple(study for study, prepared in studies if not prepared),
            recorded=patient in withdrawals.withdrawn(site.state),
        )


def withdraw(
    config_path: Path | None, patient: str, folder: Path | None = None, step: Steps = silent_steps
) -> Withdrawn:
    """Withdraws a patient: recorded first, for ever; then every trace in the prepared folder is removed.

    Harmless to repeat: a run that was cut off is finished by the next. Weights in training that have seen the patient
    are thrown away, and the round trains again. Raises TryAgainLater (another run prepares data; the record stands,
    and that run will heed it), CannotWrite.
    """
    with open_site(config_path) as site:
        recorded = withdrawals.withdraw(site.state, patient)
        for weights in (site.state.folder / "checkpoints").glob("*.safetensors"):
            weights.unlink(missing_ok=True)
        kept.forget_layers(site.state)
        personal.discard(site.state)
        evaluations.forget(site.state, patient)
        writing.forget_pictures(site.state)
        place = folder or site.config.paths.data
        removed = _remove(place, patient, step) if place.is_dir() else 0
        if removed:
            withdrawals.removed(site.state, patient, removed)
    return Withdrawn(patient, recorded, removed)


def _remove(place: Path, patient: str, step: Steps) -> int:
    """Cases, progress, and the pages with their pictures; the report is made anew. Gives how many case files went."""
    from fedsite.dataset import folder as folders
    from fedsite.dataset import report as reports
    from fedsite.jobs.data.prepare import CHECK_REPORT, REPORT
    from fedsite.tasks import registry

    with folders.hold(place) as held:
        removed = held.withdraw(patient)
        (place / CHECK_REPORT).unlink(missing_ok=True)
        if held.manifest and (place / REPORT).exists():
            content = reports.Content.of(held.manifest, registry.get(held.manifest.task))
            if not reports.is_current(place / REPORT, content):
                (place / REPORT).unlink()
                looks = reports.stored_looks(place, held.manifest.spacing_mm)
                with step("Writing the report") as progress:
                    reports.write_report(place / REPORT, content, looks, progress)
    return removed


def _known(place: Path) -> dict[str, tuple[str, bool]]:
    """Every study of a prepared folder with its patient, and whether there is a case of it."""
    try:
        manifest = manifests.load(place)
    except SourceMissing:
        return {}
    known = {study.id: (study.patient, False) for study in manifest.excluded}
    return known | {case.id: (case.patient, True) for case in manifest.cases}


def _require_kind(name: str, kinds: str) -> None:
    kind, _, digits = name.partition("-")
    if kind not in tuple(kinds) or not digits.isalnum() or name != name.lower():
        examples = ", ".join(f"{each}-..." for each in kinds)
        raise UsageError("That is no id of this site.", f"Give one of {examples}; fedsite data list shows them.")
