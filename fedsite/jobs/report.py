"""`fedsite report`: one page of this site's participation, for its own people. It holds Dice, and stays at home.

Made of what lies in the state folder, once both chains are found whole; nobody is asked.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedsite.jobs import status
from fedsite.jobs.audit import ethics_report
from fedsite.jobs.audit.ethics_report import Account
from fedsite.jobs.models import evaluations
from fedsite.jobs.pages import curves, writing
from fedsite.jobs.pages.curves import Chart, Point, RoundFacts
from fedsite.jobs.site import Site, open_site
from fedsite.jobs.unattended import run_log

RUNS_OF_DAYS = 30
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Taken:
    """One round at this site. `before` is the model that it began with, `after` what was trained here; `epsilon` what
    the ledger had spent once it was charged (None where it was not), hours are of training, on `gpus` GPUs.
    """

    number: int
    changed: str
    outcome: str
    before: Point | None
    after: Point | None
    epsilon: float | None
    bytes_sent: int | None
    hours: float
    gpus: int


@dataclass(frozen=True)
class Participation:
    """All that the page says."""

    status: Mapping[str, Any]
    account: Account
    rounds: tuple[Taken, ...]
    charts: tuple[Chart, ...]
    runs: tuple[tuple[str, int], ...]
    days: int = RUNS_OF_DAYS

    @property
    def taken_part(self) -> int:
        """In how many rounds the update arrived."""
        return sum(one.outcome == status.OUTCOMES["acknowledged"] for one in self.rounds)

    @property
    def gpu_hours(self) -> float:
        """Of all trainings; several GPUs add up."""
        return sum(one.hours * one.gpus for one in self.rounds)

    @property
    def cpu_hours(self) -> float:
        """Of the trainings that no GPU helped."""
        return sum(one.hours for one in self.rounds if not one.gpus)

    @property
    def bytes_sent(self) -> int:
        """Of everything that was said to the server."""
        return sum(one.sent for one in self.account.errands.values())

    @property
    def bytes_received(self) -> int:
        """Of everything that the server has answered."""
        return sum(one.received for one in self.account.errands.values())


def write(config_path: Path | None, destination: Path | None) -> Path:
    """Writes the page (0600), into the state folder where no other place is named; gives where it lies.

    Raises RecordsDamaged, CannotWrite.
    """
    with open_site(config_path) as site:
        page = destination or writing.place(site.state, writing.PARTICIPATION)
        writing.write(page, "participation.html.j2", found=participation_of(site))
    return page


def participation_of(site: Site) -> Participation:
    """What this site remembers of its rounds and runs."""
    account = ethics_report.account_of(site)
    facts = evaluations.rounds(site.state, account.pinned.federation) if account.pinned else ()
    drawn = (curves.dice_chart(facts), account.chart, curves.seconds_chart(facts))
    return Participation(
        status=status.of(site),
        account=account,
        rounds=_rounds(site, account, {one.number: one for one in facts}),
        charts=tuple(chart for chart in drawn if chart is not None),
        runs=_runs(site),
    )


def _rounds(site: Site, account: Account, facts: Mapping[int, RoundFacts]) -> tuple[Taken, ...]:
    """Newest first."""
    charged = {one.round: one for one in account.releases}
    records = site.state.rounds(account.pinned.federation) if account.pinned else []
    found = []
    for record in reversed(records):
        training = record.body.get("training") or {}
        left, begun = charged.get(record.round), facts.get(record.round - 1)
        found.append(
            Taken(
                number=record.round,
                changed=record.changed,
                outcome=status.OUTCOMES.get(record.state, status.UNDER_WAY),
                before=begun.shared if begun else None,
                after=facts[record.round].trained,
                epsilon=left.after.epsilon_noised if left else None,
                bytes_sent=left.payload_bytes if left else None,
                hours=training.get("seconds", 0.0) / SECONDS_AN_HOUR,
                gpus=training.get("gpus", 0),
            )
        )
    return tuple(found)


def _runs(site: Site) -> tuple[tuple[str, int], ...]:
    """How the runs of the last weeks ended, the most frequent end first."""
    first = (datetime.now(UTC) - timedelta(days=RUNS_OF_DAYS)).isoformat(timespec="seconds")
    lines = run_log.since(site.state.folder, first)
    ends = (f"{one['outcome']} ({one['code']})" if one.get("code") else str(one.get("outcome")) for one in lines)
    return tuple(Counter(end.replace("-", " ") for end in ends).most_common())
