"""Listing a source: the files of a folder tree, in groups. Nothing is opened, and nothing is judged by its name."""

import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedsite.errors import SourceMissing

Place = tuple[str, str]

# Files beside each other are taken together until a name's checksum is a multiple of this, so that a file that
# comes or goes moves no other file to another group; and never more than the most.
_USUAL_GROUP, _LARGEST_GROUP = 512, 8192


@dataclass(frozen=True, repr=False)
class Group:
    """Some files of one folder, or members of one archive. `after` is the name before the first, "" at the start."""

    container: str
    after: str
    names: tuple[str, ...]
    is_archive: bool = False

    @cached_property
    def places(self) -> list[Place]:
        """Path and member of each file, as `opening.open_file` takes them."""
        if self.is_archive:
            return [(self.container, name) for name in self.names]
        folder = os.path.join(self.container, "")
        return [(folder + name, "") for name in self.names]


def tree(source: Path) -> tuple[list[Group], Counter[str]]:
    """Every file below `source` (or the file that it is), and the rules that were broken, each with its count.

    Links are followed, never in a circle. Raises SourceMissing when there is no such source.
    """
    if not os.access(source, os.R_OK):
        raise SourceMissing("The source is not there or cannot be read.", "Check the path and its permissions.")
    top = os.path.abspath(source)  # resolve() would follow links: the operator's name of it counts
    broken: Counter[str] = Counter()
    if not source.is_dir():
        return [Group(os.path.dirname(top), "", (os.path.basename(top),))], broken
    return [group for folder, names in _folders(top, broken) for group in groups(folder, names)], broken


def groups(container: str, names: Iterable[str], is_archive: bool = False) -> Iterator[Group]:
    """The files of a folder or the members of an archive, divided."""
    after, taken = "", []
    for name in sorted(names):
        taken.append(name)
        checksum = zlib.crc32(name.encode("utf-8", "surrogateescape"))
        if checksum % _USUAL_GROUP == 0 or len(taken) >= _LARGEST_GROUP:
            yield Group(container, after, tuple(taken), is_archive)
            after, taken = name, []
    if taken:
        yield Group(container, after, tuple(taken), is_archive)


def _folders(top: str, broken: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its files. Not recursive: a tree may be deeper than Python's stack."""
    pending, visited = [top], set()
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            broken["unreadable-folder"] += 1
            continue
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        below = [entry.path for entry in entries if _is_folder(entry)]
        pending += reversed(below)
        yield folder, [entry.name for entry in entries if not _is_folder(entry)]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: opening it says so
        return False
