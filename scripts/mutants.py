"""Breaks the promises on privacy one by one, in a copy of the project, and shows which test sees each of them.

A mutant is one textual change. First the tests that it names are run, which takes seconds; should they all pass, those
of the rooms where a release is made. The exit code is 1 when a mutant survives, or its text is not found any more.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants_of_privacy import MUTANTS, Mutant
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
ROOMS = ("tests/unit/privacy", "tests/unit/jobs", "tests/unit/training", "tests/unit/wire", "tests/unit/laws")
PYTEST = ("-m", "pytest", "-n0", "-x", "-q", "--no-header", "-p", "no:cacheprovider")
MINUTES = 20


class NotFound(Exception):
    """A mutant's text is not in its file, or more than once: it says nothing about the code as it is now."""


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: the test that failed (None: it survived), and in how many seconds."""

    mutant: Mutant
    test: str | None
    seconds: float


def mutated(mutant: Mutant, source: str) -> str:
    """The source with the mutant's change. Raises NotFound."""
    if source.count(mutant.old) != 1:
        raise NotFound(f"{mutant.name}: its text stands {source.count(mutant.old)} times in {mutant.file}")
    return source.replace(mutant.old, mutant.new)


def copy_of_the_project(folder: Path) -> Path:
    """The tracked files, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def failing_test(copy: Path, tests: Iterable[str]) -> str | None:
    """The first test that fails in the copy, None when all pass. Raises RuntimeError when they cannot be run."""
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *PYTEST, *tests],
        cwd=copy, env=environment, capture_output=True, text=True, timeout=60 * MINUTES, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or found is None:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return found[1]


def fate_of(mutant: Mutant, copy: Path) -> Fate:
    """Applies a mutant to the copy, runs tests until one fails, and takes it back. Raises NotFound, RuntimeError."""
    started, file = time.monotonic(), copy / mutant.file
    source = file.read_text()
    file.write_text(mutated(mutant, source))
    try:
        test = failing_test(copy, mutant.tests) or failing_test(copy, ROOMS)
    finally:
        file.write_text(source)
    return Fate(mutant, test, time.monotonic() - started)


def run(mutants: Sequence[Mutant], console: Console) -> list[Fate]:
    """The fate of each mutant. Raises RuntimeError unless all tests that they name pass on the code as it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_the_project(Path(folder).resolve())
        for mutant in mutants:
            mutated(mutant, (copy / mutant.file).read_text())
        named = sorted({test for mutant in mutants for test in mutant.tests})
        if failed := failing_test(copy, named):
            raise RuntimeError(f"{failed} fails without any mutant: nothing would be said by its failing.")
        fates = []
        for mutant in mutants:
            fates.append(fate_of(mutant, copy))
            console.print(f"{mutant.name}: {fates[-1].test or 'SURVIVED'}", markup=False)
    return fates


def report(fates: Sequence[Fate]) -> Table:
    """A table of the mutants, each with the test that saw it."""
    table = Table("mutant", "where", "seen by", "s", box=None)
    for fate in fates:
        table.add_row(fate.mutant.name, fate.mutant.file, fate.test or "SURVIVED", f"{fate.seconds:.0f}")
    return table


def main() -> int:
    """The command line. The exit code is 1 when a mutant survives or cannot be tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="only the mutants whose name holds TEXT")
    parser.add_argument("--list", action="store_true", help="show the mutants and the tests that they name")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    console = Console(width=180, highlight=False)
    if options.list:
        for mutant in chosen:
            console.print(f"{mutant.name} ({mutant.file})\n  {' '.join(mutant.tests)}", markup=False)
        return 0
    try:
        fates = run(chosen, Console(stderr=True, highlight=False, soft_wrap=True))
    except (NotFound, RuntimeError) as error:
        console.print(str(error), markup=False)
        return 1
    console.print(report(fates))
    return int(not fates or any(fate.test is None for fate in fates))


if __name__ == "__main__":
    sys.exit(main())
