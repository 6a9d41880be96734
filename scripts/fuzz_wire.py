"""Fuzzes with hypothesis whatever parses bytes that come over the network or lie in files.

Plans, envelopes, messages, headers of updates, the site's configuration, the coordinator's plan, certificates, requests
for them, invitations. Good ones are changed where a parser might trip. Each case must end in the promised error, or in
something that means what the bytes say, within two seconds of CPU. The exit code is 1 when one does not; its line
belongs into tests/faults/hostile_seeds.txt, which the tests judge again.
"""

import argparse
import sys
import time
from pathlib import Path

from bench_rows import Row, reach, report
from rich.console import Console
from rich.table import Table
from support.hostile.hunt import hunt
from support.hostile.targets import targets

CASES, QUICK_CASES = 100_000, 2_000


def main() -> int:
    """The command line."""
    every = targets()
    options = _options(list(every))
    chosen = {name: every[name] for name in options.target or every}
    console, share = Console(width=110, highlight=False), -(-options.cases // len(chosen))
    table, failures, cases = Table("what", "cases", "accepted", "seconds", "found", box=None), 0, 0
    for name, target in chosen.items():
        began = time.monotonic()
        catch = hunt(target, share, options.seed)
        cases += catch.cases
        failures += bool(catch.error)
        seconds = time.monotonic() - began
        table.add_row(name, str(catch.cases), f"{catch.accepted / catch.cases:.0%}", f"{seconds:.0f}", catch.error)
        if catch.error:
            console.print(catch.line(name), soft_wrap=True, markup=False)
    console.print(table)
    rows = [
        reach("hostile documents", cases, "cases", "asked for", options.cases),
        Row("judged badly", failures, "targets", "none", float(failures), 0.0, not failures),
    ]
    return report(rows, options.json)


def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="which ones (default: %(default)s)")
    parser.add_argument("--target", choices=names, action="append", metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="fewer cases; ends within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    options.cases = QUICK_CASES if options.quick else options.cases
    return options


if __name__ == "__main__":
    sys.exit(main())
