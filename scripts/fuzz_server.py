"""Fuzzes the server's API with schemathesis, all checks, by the OpenAPI document that the server itself publishes.

The whole application answers, behind real TLS, to a site with its certificate: a round is open, an update under way.
Only its limits are wider, or most requests would be told to wait. Exit code 1 when anything is found.
"""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from bench_rows import Row, reach, report
from rich.console import Console
from rich.table import Table
from support.api.fuzzer import Findings, fuzz
from support.api.target import Target, running

REQUESTS, QUICK_REQUESTS = 5_000, 500
EXAMPLES = 60


def main() -> int:
    """The command line."""
    logging.disable(logging.WARNING)  # of refusals the server writes a line each
    options = _options()
    console, started = Console(width=110, highlight=False), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch)) as target:
        runs = _until(options.requests, target, Path(scratch), options.seed)
    failures = sum(run.failures for run in runs)
    for run in runs:
        if run.failures:
            console.print(run.said, markup=False)
    console.print(_table(target))
    console.print(f"{target.requests} requests in {time.monotonic() - started:.0f} s.")
    rows = [
        reach("requests to the server's API", target.requests, "requests", "asked for", options.requests),
        Row("failures of any check", failures, "failures", "none", float(failures), 0.0, not failures),
    ]
    return report(rows, options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N", help="at least (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first run (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer requests; ends within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    options.requests = QUICK_REQUESTS if options.quick else options.requests
    return options


def _until(requests: int, target: Target, scratch: Path, seed: int) -> list[Findings]:
    """Runs with one seed after the other; the coverage phase, which draws nothing by chance, in the first alone."""
    runs = [fuzz(target, scratch, EXAMPLES, seed)]
    while target.requests < requests and not runs[-1].failures:
        runs.append(fuzz(target, scratch, EXAMPLES, seed + len(runs), phases="fuzzing"))
    return runs


def _table(target: Target) -> Table:
    table = Table("status", "answers", box=None)
    for status, count in sorted(target.statuses.items()):
        table.add_row(str(status), str(count))
    return table


if __name__ == "__main__":
    sys.exit(main())
