"""What a story comes to: figures beside their rules, and everything that broke one."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench_rows import Row, compare, reach
from support.federation import NAME
from support.site import Site

from endurance import accounts, figures
from endurance.coordinator import Coordinator
from endurance.figures import MEGABYTE
from endurance.stories import Mark, Told
from endurance.world import Run, World

FLAT = 1.2
"""The server's memory at a mark, as a multiple of that at the first, at most."""
STEADY = 1.1
"""The same of the process that serves the second half of the rounds, since that began."""
MORE_DESCRIPTORS = 16
"""File descriptors that the server may have open beyond those at the first mark: its pool of connections to SQLite."""
LINEAR = 1.25
"""How much faster what grows may grow in the second half than in the first."""

LATEST_RENEWAL = 75.0
"""Days after which a site that comes often, and a server that runs, have another certificate."""

WAITS = re.compile(r"Error: (Another fedsite run is at work|Round \d+ ended|The federation server asks to wait)")
MISSED = re.compile(r"(Warning: Round \d+ ended while this site was at work \(\w+\); nothing was sent\.\s*)+")
"""What a run that goes well may say of an earlier one, which was cut off."""
HALF_WRITTEN = re.compile(r"^\..*\.tmp$|\.new$|^\.file\.|^\.model\.|-journal$")


@dataclass
class Verdict:
    """Rows for the table, and what is wrong in words."""

    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def none(self, what: str, unit: str, found: Sequence[str]) -> None:
        """A row of what must not be."""
        self.rows.append(Row(what, len(found), unit, "none", float(len(found)), 0.0, not found))
        self.wrong += found

    def figure(self, what: str, value: float, unit: str) -> None:
        """A row of what is only told."""
        self.rows.append(Row(what, round(value, 4), unit, "", 1.0, None, None))


def judge(world: World, coordinator: Coordinator, told: Told, over_budget: Sequence[str]) -> Verdict:
    """Holds all accounts against each other, while the server still runs; `over_budget`: whose budgets end."""
    verdict, reports = Verdict(), coordinator.reports()
    _count_runs(verdict, told, reports)
    verdict.none("runs with an end that nobody foresaw", "runs", list(unforeseen(told.runs, over_budget)))
    states = {one.name: _states(one.site) for one in world.members}
    rounds = [
        wrong
        for one in reports
        if one["status"] != "open"  # a year may end in the middle of one
        for wrong in accounts.of_round(one, {site: known.get(one["round"], "") for site, known in states.items()})
    ]
    verdict.none("rounds, or sites' parts in them, that are not accounted for", "of them", rounds)
    verdict.none("rounds that begin with another model than the last", "rounds", accounts.of_lineage(reports))
    charges, differences = 0, []
    for member in world.members:
        ledger, arrivals = member.site.ledger(), coordinator.arrivals(member.name)
        charges += sum(body["kind"] == "reserved" for body in ledger)
        differences += accounts.of_charges(member.name, arrivals, ledger)
    verdict.figure("charges of the sites' ledgers, held against the server's receipts", charges, "charges")
    verdict.none("charges on which ledger and receipts differ", "charges", differences)
    verdict.none("sites whose records do not verify", "sites", list(_damaged(world)))
    _compare_marks(verdict, told)
    return verdict


def after_the_end(verdict: Verdict, folder: Path, scratch: Path) -> None:
    """What must not be there once everything is stopped: processes, and files that nobody goes on with."""
    verdict.none("processes left over", "processes", figures.at_work_in(folder))
    halves = [str(path) for path in folder.rglob("*") if HALF_WRITTEN.search(path.name)]
    halves += [str(path) for path in scratch.rglob("*")]
    verdict.none("files left over", "files", halves)


def judge_renewals(verdict: Verdict, world: World, told: Told, days: float) -> None:
    """Certificates live for 90 days, and are renewed at the first chance after 60."""
    least = days // LATEST_RENEWAL
    for member in world.members:
        with member.site.open_state() as state:
            renewed = sum(one.body.get("event") == "certificate renewed" for one in state.records("audit"))
        verdict.rows.append(reach(f"renewals by {member.name}", renewed, "times", "at least", least))
        versions = [path.name for path in (member.site.state / "identity" / "versions").iterdir()]
        verdict.none(f"identities of {member.name} beside the one in use", "folders", versions[1:])
    shown = len(told.server_certificates) - 1
    verdict.rows.append(reach("renewals by the server", shown, "times", "at least", least))


def _count_runs(verdict: Verdict, told: Told, reports: Sequence[dict[str, object]]) -> None:
    verdict.figure("scheduled runs", len(told.runs), "runs")
    verdict.figure("times that a site was asleep", told.asleep, "times")
    for word, number in accounts.count(_word(run) for run in told.runs).items():
        verdict.figure(f"runs: {word}", number, "runs")
    for word, number in accounts.count(str(one["status"]) for one in reports).items():
        verdict.figure(f"rounds: {word}", number, "rounds")
    parts = [place for one in reports for place in accounts.outcomes(one).values()]
    for word, number in accounts.count(parts).items():
        verdict.figure(f"sites in rounds: {word}", number, "times")


def _word(run: Run) -> str:
    ends = {0: "to the end", -9: "killed", 143: "terminated", -15: "terminated", 75: "code 75", 69: "code 69"}
    return f"{run.fault}, {ends.get(run.code, f'code {run.code}')}"


def unforeseen(runs: Sequence[Run], over_budget: Sequence[str]) -> Iterator[str]:
    """Runs that ended otherwise than their fault explains, or that went well and yet said something."""
    for run in runs:
        disturbed = run.server_disturbed or run.fault != "none"
        foreseen = {
            0: disturbed or not run.said or MISSED.fullmatch(run.said) is not None,
            -9: run.fault == "killed",
            143: run.fault == "terminated",
            -15: run.fault == "terminated",
            69: run.server_disturbed or run.fault == "cut",
            75: not run.said or WAITS.search(run.said) is not None,
            81: run.site in over_budget,
        }
        if not foreseen.get(run.code, False):
            yield f"{run.site} in turn {run.turn} ({run.fault}): code {run.code}: {run.said}"


def _states(site: Site) -> dict[int, str]:
    with site.open_state() as state:
        return {one.round: one.state for one in state.rounds(NAME)}


def _damaged(world: World) -> Iterator[str]:
    for member in world.members:
        try:
            with member.site.open_state() as state:
                state.verify()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            yield f"{member.name}: {error}"


def _compare_marks(verdict: Verdict, told: Told) -> None:
    first = told.marks[0]
    for mark in told.marks:
        what = f"server's memory after {mark.after} ({mark.served} by this process)"
        target = None if mark is first else FLAT
        row = compare(what, mark.server.memory / MEGABYTE, "MB", "after 1", first.server.memory / MEGABYTE, target)
        verdict.rows.append(row)
    half, last = told.marks[-2:] if len(told.marks) > 1 else (first, first)
    if half is not last and half.server.number == last.server.number:
        what, since = "memory of the server that served the second half", f"after {half.after}"
        row = compare(what, last.server.memory / MEGABYTE, "MB", since, half.server.memory / MEGABYTE, STEADY)
        verdict.rows.append(row)
    for mark in told.marks:
        more = first.server.descriptors + MORE_DESCRIPTORS
        what, known = f"server's file descriptors after {mark.after}", mark.server.descriptors
        verdict.rows.append(compare(what, known, "open", f"after 1, and {MORE_DESCRIPTORS}", more, 1.0))
    for mark in told.marks:
        verdict.figure(f"database after {mark.after}", mark.database / MEGABYTE, "MB")
        verdict.figure(f"server's folder after {mark.after}", mark.federation.bytes / MEGABYTE, "MB")
        verdict.figure(f"server's files after {mark.after}", mark.federation.files, "files")
        verdict.figure(
            f"largest site's folder after {mark.after}", max(one.bytes for one in mark.sites) / MEGABYTE, "MB"
        )
        verdict.figure(f"largest site's files after {mark.after}", max(one.files for one in mark.sites), "files")
    _growth(verdict, told.marks)


def _growth(verdict: Verdict, marks: Sequence[Mark]) -> None:
    """Bytes for each round or turn, early and late."""
    if len(marks) < 3:
        return
    first, half, last = marks[0], marks[-2], marks[-1]

    def rates(of: Callable[[Mark], int]) -> tuple[float, float]:
        early = (of(half) - of(first)) / (half.after - first.after)
        return max(early, 1.0), (of(last) - of(half)) / (last.after - half.after)

    for what, of in (
        ("server's folder", lambda mark: mark.federation.growing),
        ("sites' folders", lambda mark: sum(one.growing for one in mark.sites)),
    ):
        early, late = rates(of)
        verdict.rows.append(
            compare(f"growth of the {what}, late", late / 1000, "kB each", "early", early / 1000, LINEAR)
        )
