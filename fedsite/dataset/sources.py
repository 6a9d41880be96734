"""What kind of source a folder is, and its studies: DICOM files, or NIfTI images in one of the task's layouts."""

import os
from collections.abc import Iterator
from pathlib import Path

from fedsite.dataset import bids_source, dicom_source, layout_source, layouts, nifti
from fedsite.dataset.studies import Collected, Progress, Pseudonyms, Unmarked
from fedsite.dicom.index import Index
from fedsite.errors import DataNotFit, SourceMissing
from fedsite.tasks.description import Task

_PREAMBLE = 128
_MAGIC = b"DICM"


def collect(
    source: Path,
    labels: Path | None,
    task: Task,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    *,
    index: Index | None = None,
    resample: frozenset[str] = frozenset(),
    require_deidentified: bool = False,
    unmarked: Unmarked | None = None,
    layout: str = "",
) -> Collected:
    """The studies of a source for a task, with those left out and why.

    `index` remembers DICOM headers from scan to scan; `resample` names what is mended in DICOM series by resampling
    and not refused (`dicom.regrid.CHOICES`). With `require_deidentified` images with direct identifiers are left out,
    with `unmarked` no masks are looked for. `layout` names one of the task's (DICOM files are passed over then);
    without it DICOM files go first, and else the source must follow just one of them.
    Raises SourceMissing when source or labels is not there, DataNotFit when the source holds no images at all or is not
    in that layout, UsageError when it could be in several, or there is no such layout.
    """
    require(source)
    if labels is not None and not labels.is_dir():
        raise SourceMissing(
            "The folder of --labels is not there.", "Check the path of the folder that holds the masks."
        )
    chosen = layouts.choose(source, task, layout) if layout or not holds_dicom(source) else None
    if chosen:
        collect_from = bids_source.collect if chosen.kind == "bids" else layout_source.collect
        return collect_from(source, labels, task, pseudonyms, progress, require_deidentified, unmarked, chosen)
    collected = dicom_source.collect(
        source,
        labels,
        task,
        pseudonyms,
        progress,
        index=index,
        resample=resample,
        require_deidentified=require_deidentified,
        unmarked=unmarked,
    )
    if not collected.studies and not collected.excluded:
        reasons = "; ".join(finding.message for finding in collected.findings)
        raise DataNotFit(
            f"The source holds neither DICOM images nor NIfTI images in a layout of the task. {reasons}".strip(),
            "Give the folder of a DICOM export, or of a data set in one of the layouts that fedsite tasks show lists.",
        )
    return collected


def require(source: Path) -> None:
    """Raises SourceMissing when there is no such source."""
    if not os.access(source, os.R_OK):
        raise SourceMissing("The source is not there or cannot be read.", "Check its path and its permissions.")


def holds_dicom(source: Path) -> bool:
    """Whether there is any DICOM file. `sourcedata`, where BIDS keeps what images were made from, is passed over."""
    return any(not nifti.is_nifti(path) and _is_dicom(path) for path in _files(source))


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if name != "sourcedata")
        for name in names:
            yield Path(folder, name)


def _is_dicom(path: Path) -> bool:
    try:
        if not path.is_file():
            return False  # opening a named pipe would wait for ever
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False
