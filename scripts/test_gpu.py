"""Runs the tests marked gpu on a device and shows what they measured, as a table and as JSON."""

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
COLUMNS = {"peak memory": "GB", "a step": "s", "utilisation": "%"}


def main() -> int:
    """Gives pytest's exit code; without a device that is 0, and every test says why it was skipped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny, to try the tests out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured to FILE")
    parser.add_argument("pytest", nargs="*", metavar="-- ARGUMENT", help="for pytest, such as -- -k memory")
    options = parser.parse_args()
    os.environ["FEDSITE_GPU_TESTS_ON"] = options.device
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("FEDSITE_COMMAND", str(_command(Path(scratch))))
        report = Path(scratch, "report.xml")
        # Elsewhere the libraries may be newer than ours: what they warn of is shown, and fails nothing.
        settings = ["-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        places = [str(ROOT / "tests" / name) for name in ("gpu", "unit/training")]
        code = int(pytest.main([*places, *settings, f"--junitxml={report}", f"--rootdir={ROOT}", *options.pytest]))
        rows = list(_measured(report))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() and options.device == "cuda" else options.device
    Console(width=110).print(_table(f"On {name}, torch {torch.__version__}", rows))
    if options.json:
        options.json.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    return code


def _command(folder: Path) -> Path:
    """The installed `fedsite` beside this interpreter, or one that runs the code that lies here."""
    installed = Path(sys.executable).with_name("fedsite")
    if installed.exists():
        return installed
    made = folder / "fedsite"
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    made.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(paths)} exec {shlex.quote(sys.executable)} -m fedsite.cli.main "$@"\n'
    )
    made.chmod(0o700)
    return made


def _measured(report: Path) -> Iterator[dict[str, str | float]]:
    """A row for each test that recorded something."""
    for case in ElementTree.parse(report).iter("testcase"):
        found = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        if found:
            numbers = {name: float(value) for name, value in found.items() if name in COLUMNS and value}
            yield {"task": found["task"], "training": found["training"], **numbers}


def _table(title: str, rows: list[dict[str, str | float]]) -> Table:
    table = Table("task", "training", *(f"{name}, {unit}" for name, unit in COLUMNS.items()), title=title, box=None)
    for row in rows:
        numbers = [f"{row[name]:.3g}" if name in row else "" for name in COLUMNS]
        table.add_row(str(row["task"]), str(row["training"]), *numbers)
    return table


if __name__ == "__main__":
    sys.exit(main())
