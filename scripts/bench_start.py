"""How long a command takes to start, against `python -c "import typer, rich"` on the same machine in the same minute.

The commands take turns, so that whatever else the machine does hits all of them; the medians are compared. The site
that they look at is enrolled, has prepared data and two dozen rounds in its ledger.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_rows import Row, compare, main
from example_site import make_site

FEDSITE = str(Path(sys.executable).with_name("fedsite"))
BASE = 'python -c "import typer, rich"'
TARGETS: dict[str, float | None] = {
    "--help": 2,
    "status": 4,
    "privacy show": None,
    "audit show": None,
    "tasks list": None,
    "config show": None,
}
REPEATS, QUICK_REPEATS = 41, 11


def measure(quick: bool) -> list[Row]:
    """Median seconds of each command, as a multiple of the base's."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_site(Path(folder).resolve())
        commands = {BASE: [sys.executable, "-c", "import typer, rich"]}
        commands |= {f"fedsite {name}": [FEDSITE, "--config", str(config), *name.split()] for name in TARGETS}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for repeat in range(1 + (QUICK_REPEATS if quick else REPEATS)):
            for name, command in commands.items():
                seconds = _seconds(command)
                if repeat:  # the first turn warms the disk cache and compiles
                    times[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return [
        compare(f"fedsite {name}", medians[f"fedsite {name}"], "s", BASE, medians[BASE], target)
        for name, target in TARGETS.items()
    ]


def _seconds(command: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDSITE_")}
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
