"""The matrix of faults: what can go wrong, where the tests make it go wrong, and what is promised.

A row is a mark of a test, `pytest.mark.fault(part=, what=, where=, promised=)`, on it or on one of its parameters.
The page .github/FAULTS.md is made of them; tests/unit/docs/test_faults_page.py holds it equal to the tests.
"""

import argparse
import ast
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedsite.files import write_atomically

ROOT = Path(__file__).parents[1]
PAGE = ROOT / ".github" / "FAULTS.md"
PARTS = {
    "site": "A site's machine",
    "training": "A training",
    "server": "The server",
    "line": "The line between them",
    "time": "Clocks and certificates",
    "records": "Records and copies of them",
    "data": "Preparation of data",
}
EXHAUSTIVE = "pytest.mark.exhaustive"
HEAD = """# What happens when

Each row is a fault that a test brings about, and what fedsite promises of it. The whole matrix is one command,
`scripts/faults`; tests marked *exhaustive* run only there, the others with `scripts/test`, too. This page is made from
the tests by `scripts/faults --page`.

Kills, power cuts and failing disks strike *steps that last*: each file that is created, written, fsynced, renamed or
removed, each commit, each block that is sent. A process counts them (`tests/support/faulty.py`) and is struck at the
N-th, for every N that there is. A power cut also takes back whatever no fsync had made durable. "Exactly once" means:
one update at the server, one charge in the ledger, one receipt, the bytes that were released.
"""


@dataclass(frozen=True)
class Row:
    """One fault. `test` is the node of the test that asserts it, with the parameter if it is one parameter's."""

    test: str
    part: str
    what: str
    where: str
    promised: str
    exhaustive: bool

    @property
    def cells(self) -> str:
        """Its line of the table."""
        alone = ", exhaustive" if self.exhaustive else ""
        return f"| {self.what} | {self.where} | {self.promised} | `{self.test}`{alone} |"


def rows() -> list[Row]:
    """All rows of all tests, by part. Raises ValueError for a mark that is not written out."""
    found = [row for path in sorted((ROOT / "tests").rglob("test_*.py")) for row in _rows_of(path)]
    return sorted(found, key=lambda row: list(PARTS).index(row.part))


def _rows_of(path: Path) -> Iterator[Row]:
    text = path.read_text()
    if "mark.fault(" not in text:
        return
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        node = f"{path.relative_to(ROOT)}::{function.name}"
        for decorator in function.decorator_list:
            for call, parameter, slow in _marks(decorator):
                fields = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}
                alone = slow or any(ast.unparse(one) == EXHAUSTIVE for one in function.decorator_list)
                yield Row(f"{node}[{parameter}]" if parameter else node, exhaustive=alone, **fields)


def _marks(tree: ast.AST, parameter: str = "", slow: bool = False) -> Iterator[tuple[ast.Call, str, bool]]:
    """The marks below, each with the id of the parameter that it belongs to, and whether that is exhaustive."""
    if isinstance(tree, ast.Call):
        name = ast.unparse(tree.func)
        if name == "pytest.mark.fault":
            yield tree, parameter, slow
            return
        if name == "pytest.param":
            parameter = next((ast.literal_eval(one.value) for one in tree.keywords if one.arg == "id"), "")
            slow = EXHAUSTIVE in ast.unparse(tree)
    for child in ast.iter_child_nodes(tree):
        yield from _marks(child, parameter, slow)


def render(found: Sequence[Row]) -> str:
    """The page."""
    lines = [HEAD.rstrip()]
    for part, title in PARTS.items():
        own = [row.cells for row in found if row.part == part]
        header = ["| fault | where it is injected | what is promised | asserted by |", "| --- | --- | --- | --- |"]
        lines += ["", f"## {title}", "", *header, *own]
    return "\n".join(lines) + "\n"


class Outcomes:
    """Hears how tests end, also those of other processes."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:  # noqa: ANN401 - pytest's
        """Called by pytest for each phase of each test."""
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.passed and report.when == "call":
            self.passed.add(report.nodeid)

    def of(self, row: Row) -> str:
        """`passed`, `FAILED` or `skipped`: of all cases of a row's test."""
        if any(_belongs(node, row.test) for node in self.failed):
            return "FAILED"
        return "passed" if any(_belongs(node, row.test) for node in self.passed) else "skipped"


def _belongs(node: str, test: str) -> bool:
    return node == test or node.startswith(f"{test}[")


def run(found: Sequence[Row], arguments: Sequence[str]) -> bool:
    """Runs the tests of all rows and prints the table; whether none failed, and none was left out."""
    began, outcomes = time.monotonic(), Outcomes()
    tests = dict.fromkeys(row.test for row in found)
    options = ["-q", "-m", "", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"]
    pytest.main([*options, *tests, *arguments], plugins=[outcomes])
    print()
    for row in found:
        print(f"{outcomes.of(row):8} {row.what} ({row.where}): {row.promised} [{row.test}]")
    ends = [outcomes.of(row) for row in found]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in ("passed", "FAILED", "skipped"))
    print(f"\n{len(found)} rows: {counts}. {time.monotonic() - began:.0f} s.")
    return ends.count("passed") == len(found)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/faults", description="Runs the matrix of faults, or writes its page."
    )
    parser.add_argument("--page", action="store_true", help="write .github/FAULTS.md from the tests, and run nothing")
    given, arguments = parser.parse_known_args()
    found = rows()
    if given.page:
        write_atomically(PAGE, render(found).encode(), mode=0o644)
    elif not run(found, arguments):
        sys.exit(1)


if __name__ == "__main__":
    main()
