"""Scanning a folder tree: every file is looked at, every header read, every volume judged.

Never sorted or chosen by name: what a file is, only its content says. Pixels are read only to compare images that
lie at the same place.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedsite.dicom import deidentification, patients, series
from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.headers import read_frames
from fedsite.dicom.model import Frame, Inventory, Progress, Pseudonyms, Volume
from fedsite.dicom.values import tolerant_reading
from fedsite.errors import SourceMissing

__all__ = ["Inventory", "Volume", "scan"]

# Reading headers waits for the disk or the file server more than it computes.
THREADS = 8
BATCH = 512


def scan(
    source: Path,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    *,
    resample: frozenset[str] = frozenset(),
    require_deidentified: bool = False,
) -> Inventory:
    """What is in `source` (a folder tree or a single file): its volumes, accepted or refused, and what else there was.

    `progress` counts files; `resample` names what resampling is to mend (`regrid.CHOICES`). With
    `require_deidentified` volumes that hold direct identifiers are refused.
    Raises SourceMissing when there is no such folder.
    """
    paths, skipped = _files(source)
    by_series: dict[str, list[Frame]] = {}
    with tolerant_reading():
        for done, read in enumerate(_read_all(paths), 1):
            if isinstance(read, str):
                skipped[read] += 1
            else:
                by_series.setdefault(read[0].instance.series, []).extend(read)
            progress(done, len(paths))
        volumes = patients.judge(
            [volume for uid in sorted(by_series) for volume in series.volumes(by_series[uid], pseudonyms, resample)]
        )
    if require_deidentified:
        volumes = deidentification.refuse_identified(volumes)
    return Inventory(tuple(volumes), (*_findings(skipped), *deidentification.remarks(volumes)), len(paths))


def _files(source: Path) -> tuple[list[str], Counter[str]]:
    """Every file below `source`, and how many folders could not be listed. Links are followed, never in a circle."""
    if not os.access(source, os.R_OK):
        raise SourceMissing("The source is not there or cannot be read.", "Check the path and its permissions.")
    skipped: Counter[str] = Counter()
    if not source.is_dir():
        return [str(source)], skipped
    paths: list[str] = []
    visited: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(
        source, followlinks=True, onerror=lambda _: skipped.update(["unreadable-folder"])
    ):
        status = os.stat(folder)  # noqa: PTH116 - os.walk speaks text
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        paths += (os.path.join(folder, name) for name in sorted(names))  # noqa: PTH118
    return paths, skipped


def _read_all(paths: Sequence[str]) -> Iterator[tuple[Frame, ...] | str]:
    """Reads the headers, a batch at a time, so that memory holds no more than a batch of unjudged results."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), BATCH):
            yield from pool.map(read_frames, paths[start : start + BATCH])


def _findings(skipped: Counter[str]) -> tuple[Finding, ...]:
    return tuple(finding(rule, count=count) for rule, count in sorted(skipped.items()))
