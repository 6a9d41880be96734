"""`fedsite prepare-data`: collects the studies of a source, prepares them, writes the report."""

from dataclasses import dataclass
from pathlib import Path

from fedsite.dataset import report as reports
from fedsite.dataset.manifest import InputState
from fedsite.dataset.pictures import Album
from fedsite.dataset.prepare import NothingUsable, Prepared, Request, Withdrawn, check, prepare
from fedsite.dataset.sources import collect
from fedsite.dataset.studies import Pseudonyms
from fedsite.dicom.index import Index
from fedsite.errors import CannotWrite, UsageError
from fedsite.files import PRIVATE_FOLDER, make_folder
from fedsite.jobs import places
from fedsite.jobs.progress import Steps, silent_steps
from fedsite.jobs.site import header_index, open_site
from fedsite.site import identity, withdrawals
from fedsite.site.state import State
from fedsite.tasks import registry

REPORT = "report.html"
CHECK_REPORT = "check.html"


@dataclass(frozen=True)
class Order:
    """What the operator asked for. What is None comes from the site's configuration, or stays unset."""

    source: Path
    task: str
    labels: Path | None = None
    out: Path | None = None
    workers: int = 1
    check_only: bool = False
    report: Path | None = None
    input_state: InputState | None = None
    resample: frozenset[str] = frozenset()
    layout: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Done:
    """What came of it, and where it lies."""

    prepared: Prepared
    out: Path
    report: Path


def prepare_data(config_path: Path | None, order: Order, step: Steps = silent_steps) -> Done:
    """Prepares a source into the site's data folder (or merely checks it) and writes the report.

    Raises what `collect` and `prepare` do: UsageError, DataNotFit, SourceMissing, CannotWrite, TryAgainLater. Where
    nothing can be used, the report is still written if it was asked for by name, or in a check.
    """
    with open_site(config_path) as site:
        config, pseudonyms = site.config, identity.pseudonyms(site.files)
        index = header_index(site.state.folder, pseudonyms)

    def withdrawn() -> frozenset[str]:
        with State.open(config.paths.state) as state:
            return withdrawals.withdrawn(state)

    task = registry.get(order.task)
    request = Request(
        task=task,
        spacing_mm=config.preparation.spacing_mm or task.default_spacing_mm,
        validation_fraction=config.preparation.validation_fraction,
        input_state=order.input_state,
        workers=order.workers,
        cluster=order.cluster,
        require_deidentified=config.policy.require_deidentified_input,
    )
    return run(order, order.out or config.paths.data, request, pseudonyms, step, withdrawn, index)


def run(
    order: Order,
    out: Path,
    request: Request,
    pseudonyms: Pseudonyms,
    step: Steps = silent_steps,
    withdrawn: Withdrawn = frozenset,
    index: Index | None = None,
) -> Done:
    """The same with the site's settings as values."""
    report = order.report or out / (CHECK_REPORT if order.check_only else REPORT)
    if order.cluster and order.workers > 1:
        raise UsageError("--workers and --dask do not go together.", "A Dask cluster's workers are its own.")
    _check_places(order, out)
    with step("Reading headers") as progress:
        collected = collect(
            order.source.absolute(),  # as workers on other machines see it
            order.labels and order.labels.absolute(),
            request.task,
            pseudonyms,
            progress,
            index=index,
            resample=order.resample,
            require_deidentified=request.require_deidentified,
            layout=order.layout,
        )
    with Album() as album:
        try:
            if order.check_only:
                with step("Checking studies") as progress:
                    prepared = check(collected, request, pseudonyms, progress, withdrawn, album.keep)
            else:
                with step("Preparing cases") as progress:
                    prepared = prepare(collected, out, request, pseudonyms, progress, withdrawn)
        except NothingUsable as error:
            if order.report or order.check_only:
                _place_of(report, order)
                reports.write_report(report, _failed(request, error), album.of)
            raise
        content = reports.Content.of(prepared.manifest, request.task, not order.check_only)
        looks = album.of if order.check_only else reports.stored_looks(out, request.spacing_mm)
        _place_of(report, order)
        if not reports.is_current(report, content):
            with step("Writing the report") as progress:
                reports.write_report(report, content, looks, progress)
    return Done(prepared, out, report)


def _check_places(order: Order, out: Path) -> None:
    for place, option in ((out, "--out"), (order.report, "--report")):
        if place:
            places.require_outside(order.source, place, option)
    if order.report and not order.report.parent.is_dir():
        raise CannotWrite("The folder of --report is not there.", "Make it, or name another file.")
    places.require_writable(out, "--out")


def _place_of(report: Path, order: Order) -> None:
    """Makes the folder where the report goes by itself; one that was named must be there."""
    if order.report is None:
        make_folder(report.parent, PRIVATE_FOLDER)


def _failed(request: Request, error: NothingUsable) -> reports.Content:
    return reports.Content(
        task=request.task,
        spacing_mm=request.spacing_mm,
        input_state=None,
        validation_fraction=request.validation_fraction,
        cases=(),
        excluded=error.excluded,
        findings=error.findings,
        stored=False,
    )
