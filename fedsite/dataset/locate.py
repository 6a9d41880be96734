"""Finding a study again in its source: pseudonyms cannot be turned back, so those of the whole source are made anew.

What comes out names files, and so perhaps patients (law 8): it is for a terminal, never for a file or a log.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedsite.dataset import bids_source, dicom_source, layout_source, layouts
from fedsite.dataset.sources import holds_dicom, require
from fedsite.dataset.studies import Progress, Pseudonyms
from fedsite.dicom.index import Index
from fedsite.dicom.scan import scan


@dataclass(frozen=True)
class Located:
    """The files of one series, or of one part of it: each a path, and the member where it is an archive."""

    patient: str
    study: str
    series: str
    files: tuple[tuple[str, str], ...] = field(repr=False)


def locate(
    source: Path,
    name: str,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    index: Index | None = None,
) -> list[Located]:
    """Everything in a source that belongs to the patient, study or series (or part of one) of that pseudonym.

    `progress` counts files, `index` remembers headers. Raises SourceMissing when there is no such source.
    """
    require(source)
    found = [] if holds_dicom(source) else list(_in_nifti(source, pseudonyms))
    found = found or list(_in_dicom(source, pseudonyms, progress, index))
    return [located for names, located in found if name in names]


def _in_dicom(
    source: Path, pseudonyms: Pseudonyms, progress: Progress, index: Index | None
) -> Iterator[tuple[frozenset[str], Located]]:
    for volume in scan(source, pseudonyms, progress, index=index).volumes:
        files = sorted({(frame.instance.path, frame.instance.member) for frame in volume.frames})
        names = frozenset({volume.patient, volume.study, volume.series, volume.id})
        yield names, Located(volume.patient, volume.study, volume.id, tuple(files))
    for mask in dicom_source.mask_files(source, pseudonyms):
        yield frozenset({mask.id}), Located("-", "-", mask.id, ((str(mask.path), ""),))


def _in_nifti(source: Path, pseudonyms: Pseudonyms) -> Iterator[tuple[frozenset[str], Located]]:
    """By every layout that the source follows: which one it was read in is not known here."""
    known: set[Located] = set()
    for layout in layouts.of_any_task(source):
        bids = layout.kind == "bids"
        named = bids_source.named(source, pseudonyms) if bids else layout_source.named(source, layout, pseudonyms)
        for path, patient, study, series in named:
            located = Located(patient, study, series, ((str(path), ""),))
            if located not in known:
                known.add(located)
                yield frozenset({patient, study, series}), located
