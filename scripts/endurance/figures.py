"""What a process and a folder take: memory, file descriptors, files and bytes, as Linux tells them."""

import os
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Process:
    """A process at a moment: resident memory now and at its most (bytes), open file descriptors, threads."""

    number: int
    memory: int
    peak: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Folder:
    """A folder with all below it. `growing`: bytes without SQLite's write-ahead logs, which begin anew at 4 MB."""

    files: int
    bytes: int
    growing: int


def process(number: int) -> Process:
    """A process of this user's."""
    lines = (Path("/proc") / str(number) / "status").read_text().splitlines()
    told = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    descriptors = len(list(Path(f"/proc/{number}/fd").iterdir()))
    memory, peak = (int(told[name][0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Process(number, memory, peak, descriptors, int(told["Threads"][0]))


def folder(path: Path) -> Folder:
    """A folder in which nothing happens at the moment."""
    sizes = {one: one.stat().st_size for one in path.rglob("*") if one.is_file()}
    logs = sum(size for one, size in sizes.items() if one.name.endswith(("-wal", "-shm")))
    return Folder(len(sizes), sum(sizes.values()), sum(sizes.values()) - logs)


def at_work_in(folder_of_theirs: Path) -> list[str]:
    """The command lines of all other processes that name a folder in their arguments or environment, or have something
    below it open: those that were forked show the environment of the one that they were forked from.
    """
    wanted, found = os.fsencode(folder_of_theirs), []
    for one in Path("/proc").iterdir():
        if one.name.isdecimal() and int(one.name) != os.getpid():
            try:
                # In this order: one that has just been started may lack both still, never the second alone.
                environment, command = (one / "environ").read_bytes(), (one / "cmdline").read_bytes()
                links = list((one / "fd").iterdir())
            except OSError:  # it has ended, or is another user's
                continue
            if any(wanted in text for text in (command, environment, *map(_target, links))):
                found.append(command.replace(b"\0", b" ").decode(errors="replace").strip())
    return found


def _target(link: Path) -> bytes:
    try:
        return bytes(link.readlink())
    except OSError:  # closed meanwhile
        return b""
