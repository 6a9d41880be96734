"""Scanning a source: every file is looked at, every header read, every volume judged.

A source is a folder tree, a zip archive, the DICOMDIR of a medium, or a single file; archives are looked for in trees
too. Never sorted or chosen by name: what a file is, only its content says. Pixels are read only to compare images
that lie at the same place.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TypeVar

from fedsite.dicom.checks import Finding, finding
from fedsite.dicom.header import deidentification
from fedsite.dicom.header.frames import ARCHIVE, Read, read_frames
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.index import Index, Memory, stamp
from fedsite.dicom.model import Frame, Inventory, Progress, Pseudonyms, Volume
from fedsite.dicom.source import archives, media, walk
from fedsite.dicom.source.walk import Group, Place
from fedsite.dicom.volume import patients, series

__all__ = ["Inventory", "Volume", "scan"]

# Reading headers waits for the disk or the file server more than it computes.
THREADS = 8
BATCH = 2048
# Files that one thread reads, or looks at, in a row: to hand over each alone would cost as much as the work itself.
READ_TOGETHER, STAMP_TOGETHER = 32, 256

Result = TypeVar("Result")


def scan(
    source: Path,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    *,
    index: Index | None = None,
    resample: frozenset[str] = frozenset(),
    require_deidentified: bool = False,
) -> Inventory:
    """What is in `source`: its volumes, accepted or refused, and what else there was.

    `progress` counts files, those in archives included once an archive is met. `index` remembers headers, so that
    another scan reads only what changed. `resample` names what resampling is to mend (`regrid.CHOICES`). With
    `require_deidentified` volumes that hold direct identifiers are refused.
    Raises SourceMissing when there is no such source.
    """
    groups, broken = walk.tree(source)
    done, total = 0, sum(len(group.names) for group in groups)
    named = os.path.abspath(source)  # as `walk.tree` names it
    by_series: dict[str, list[Frame]] = {}
    with (
        tolerant_reading(),
        ThreadPoolExecutor(THREADS) as pool,
        index.of(source) if index else nullcontext() as memory,
    ):
        while groups:
            reads, groups = _read_all(groups, pool, memory), []
            for (path, _), read in reads:
                if read == ARCHIVE or (read == "media-directory" and path == named):
                    named = ""  # a DICOMDIR may name itself
                    within = _within(path, read, broken)
                    groups += within
                    total += sum(len(group.names) for group in within) - 1
                    continue
                if isinstance(read, str):
                    broken[read] += 1
                else:
                    by_series.setdefault(read[0].instance.series, []).extend(read)
                done += 1
                progress(done, total)
        volumes = patients.judge(
            [volume for uid in sorted(by_series) for volume in series.volumes(by_series[uid], pseudonyms, resample)]
        )
    if require_deidentified:
        volumes = deidentification.refuse_identified(volumes)
    return Inventory(tuple(volumes), (*_findings(broken), *deidentification.remarks(volumes)), done)


def _within(path: str, read: str, broken: Counter[str]) -> list[Group]:
    """The members of an archive, or the files that a DICOMDIR names."""
    try:
        if read == ARCHIVE:
            names, problems = archives.members(path)
            broken.update(problems)
            return list(walk.groups(path, names, is_archive=True))
        folders, missing = media.referenced_files(path)
        broken.update({"missing-file": missing} if missing else ())
        return [group for folder in sorted(folders) for group in walk.groups(folder, folders[folder])]
    except OSError:
        broken["unreadable-file"] += 1
    except Exception:  # noqa: BLE001 - a damaged DICOMDIR makes pydicom raise nearly anything
        broken["damaged-header"] += 1
    return []


def _read_all(groups: Sequence[Group], pool: Executor, memory: Memory | None) -> Iterator[tuple[Place, Read]]:
    """Reads the headers, a batch at a time, so that memory holds no more than a batch of unjudged results."""
    batch: list[Group] = []
    files = 0
    for group in groups:
        batch.append(group)
        files += len(group.names)
        if files >= BATCH:
            yield from _read_batch(batch, pool, memory)
            batch, files = [], 0
    yield from _read_batch(batch, pool, memory)


def _read_batch(batch: Sequence[Group], pool: Executor, memory: Memory | None) -> Iterator[tuple[Place, Read]]:
    places = [place for group in batch for place in group.places]
    if memory is None:
        yield from zip(places, _side_by_side(pool, _read_one, places, READ_TOGETHER), strict=True)
        return
    # Stamped before they are read: what changes in between is read again next time.
    stamps = dict(zip(places, _side_by_side(pool, stamp, places, STAMP_TOGETHER), strict=True))
    known = [memory.recall(group) for group in batch]
    reads = {place: read for entries in known for place, (then, read) in entries.items() if then == stamps.get(place)}
    fresh = [place for place in places if place not in reads]
    reads.update(zip(fresh, _side_by_side(pool, _read_one, fresh, READ_TOGETHER), strict=True))
    changed = set(fresh)
    for group, entries in zip(batch, known, strict=True):
        if len(entries) != len(group.names) or not changed.isdisjoint(group.places):
            memory.keep(group, {place: (stamps[place], reads[place]) for place in group.places})
    yield from ((place, reads[place]) for place in places)


def _read_one(place: Place) -> Read:
    return read_frames(*place)


def _side_by_side(
    pool: Executor, work: Callable[[Place], Result], places: Sequence[Place], together: int
) -> Iterator[Result]:
    """The results in order, worked out by several threads, each with some places at a time."""
    parts = [places[start : start + together] for start in range(0, len(places), together)]
    return chain.from_iterable(pool.map(lambda part: [*map(work, part)], parts))


def _findings(broken: Counter[str]) -> tuple[Finding, ...]:
    return tuple(finding(rule, count=count) for rule, count in sorted(broken.items()))
