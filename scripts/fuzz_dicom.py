"""Mutates series, lets the DICOM gate judge them, and holds its answers against an oracle of its own.

Every case must end in a verdict: no exception but the promised ones, no crash, no hang, memory bounded, no accepted
volume whose geometry its own files contradict, and no identifier in anything that is said. Half of the cases start
from series made here, half from real ones where $FEDSITE_TEST_DATA is.

A case is one line of text, `SERIES MUTATION+MUTATION NUMBER`, and makes the same bytes every time. Those that found
something are kept in tests/faults/fuzz_seeds.txt, when their series is a made one, and run with the other tests.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench_rows import Row
from rich.console import Console
from rich.table import Table
from support.fuzz import corpus
from support.fuzz.case import Case
from support.fuzz.harness import workers
from support.fuzz.mutations import KINDS
from support.fuzz.trial import Outcome

CASES, QUICK_CASES = 20_000, 500
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


@dataclass
class Tally:
    """What a run has come to."""

    cases: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    faulty: list[Outcome] = field(default_factory=list)
    cpu_seconds: float = 0.0
    codec_seconds: float = 0.0
    memory_mb: int = 0

    def add(self, case: Case, outcome: Outcome) -> None:
        """Counts an outcome under each kind of its mutations."""
        self.cases += 1
        verdict = "faulty" if outcome.faults else "accepted" if outcome.accepted else "refused"
        for kind in {_KIND_OF[name] for name in case.mutations} | {"all"}:
            self.kinds[kind, verdict] += 1
        self.rules.update(set(outcome.rules))
        self.cpu_seconds = max(self.cpu_seconds, outcome.cpu_seconds)
        self.codec_seconds = max(self.codec_seconds, outcome.codec_seconds)
        self.memory_mb = max(self.memory_mb, outcome.memory_mb)
        if outcome.faults:
            self.faulty.append(outcome)


def main() -> int:
    """The command line. The exit code is 1 when a case is faulty."""
    options = _options()
    console = Console(width=110, highlight=False)
    real = None if options.made else _real_data()
    tally, started = Tally(), time.monotonic()
    with workers(options.workers, real) as (names, run_all):
        cases = list(_cases(options, names))
        ends = started + options.minutes * 60 if options.minutes else float("inf")
        for case, outcome in zip(cases, run_all(_until(ends, cases)), strict=False):
            tally.add(case, outcome)
            if outcome.faults and options.keep:
                _keep(options.keep, case, outcome, real)
    console.print(_table(tally), _rules(tally), *_faults(tally), sep="\n", soft_wrap=True)
    seconds = time.monotonic() - started
    console.print(
        f"{tally.cases} cases in {seconds:.0f} s, {len(tally.faulty)} faulty. Real series: {bool(real)}. "
        f"At most {tally.cpu_seconds} CPU s, {tally.codec_seconds} in codecs, {tally.memory_mb} MB."
    )
    if options.json:
        rows = [asdict(row) for row in _rows(tally, seconds)]
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return int(bool(tally.faulty))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="which ones (default: %(default)s)")
    parser.add_argument("--minutes", type=float, metavar="M", help="end after so long, whatever is left")
    parser.add_argument("--only", type=int, metavar="K", help="only case K of this seed")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="the cases in FILE instead, one a line")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what is faulty: its line and its files")
    parser.add_argument("--made", action="store_true", help="only series made here, no real ones")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer cases; ends within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    options.cases = QUICK_CASES if options.quick else options.cases
    return options


def _cases(options: argparse.Namespace, names: Iterable[str]) -> Iterator[Case]:
    if options.replay:
        lines = options.replay.read_text().splitlines()
        yield from (Case.read(line) for line in lines if line and not line.startswith("#"))
        return
    made = [name for name in names if not name.startswith(corpus.REAL)]
    real = [name for name in names if name.startswith(corpus.REAL)]
    numbers = range(options.cases) if options.only is None else [options.only]
    for number in numbers:
        yield Case.drawn(options.seed, number, real if real and number % 2 else made)


def _until(ends: float, cases: Iterable[Case]) -> Iterator[Case]:
    for case in cases:
        if time.monotonic() > ends:
            return
        yield case


def _real_data() -> Path | None:
    folder = Path(os.environ.get("FEDSITE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    return folder if (folder / "truth.json").is_file() else None


def _keep(folder: Path, case: Case, outcome: Outcome, real: Path | None) -> None:
    own = folder / f"{case.number:010d}"
    own.mkdir(parents=True, exist_ok=True)
    series = {**corpus.made(), **(corpus.real(real) if real else {})}
    for index, content in enumerate(case.files(series)):
        (own / f"IM{index:05d}").write_bytes(content)
    with (folder / "cases.txt").open("a") as file:
        file.write(f"# {'; '.join(sorted(set(outcome.faults)))}\n{case}\n")


def _table(tally: Tally) -> Table:
    table = Table("mutation", "cases", "accepted", "refused", "faulty", box=None)
    for kind in ("all", *KINDS):
        counts = [tally.kinds[kind, verdict] for verdict in ("accepted", "refused", "faulty")]
        total = max(1, sum(counts))
        table.add_row(kind, str(sum(counts)), f"{counts[0] / total:.0%}", f"{counts[1] / total:.0%}", str(counts[2]))
    return table


def _rules(tally: Tally) -> str:
    return "Found: " + ", ".join(f"{rule} {count}" for rule, count in tally.rules.most_common())


def _faults(tally: Tally) -> Iterator[str]:
    """Each kind of fault (measures aside), how often, and a case to make it again."""
    kinds: dict[str, list[str]] = {}
    for outcome in tally.faulty:
        for fault in set(outcome.faults):
            kinds.setdefault(re.sub(r"[\d.]+", "#", fault), []).append(outcome.case)
    yield from (f"FAULT {kind}: {len(cases)}, such as {cases[0]}" for kind, cases in sorted(kinds.items()))


def _rows(tally: Tally, seconds: float) -> list[Row]:
    cases, faulty, accepted = tally.cases, len(tally.faulty), tally.kinds["all", "accepted"]
    return [
        Row("fuzz: faulty cases", faulty, "cases", "cases", faulty / cases, 0.0, not faulty),
        Row("fuzz: cases with an accepted volume", accepted, "cases", "cases", accepted / cases, None, None),
        Row("fuzz: cases", cases, "cases", "seconds", round(cases / seconds, 1), None, None),
        _alone("fuzz: slowest case", tally.cpu_seconds, "CPU s"),
        _alone("fuzz: slowest case, in codecs", tally.codec_seconds, "CPU s"),
        _alone("fuzz: largest case", tally.memory_mb, "MB"),
    ]


def _alone(what: str, value: float, unit: str) -> Row:
    return Row(what, value, unit, "", 1.0, None, None)


if __name__ == "__main__":
    sys.exit(main())
