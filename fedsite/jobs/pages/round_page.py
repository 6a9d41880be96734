"""`fedsite server round report`: the page of one round, for the coordinator and for whoever asks what happened in it.

Made of what the server knows. No loss, no Dice, no picture: nothing measured on patients leaves a site, so there is
nothing of the kind to show, and the page may be handed out within the federation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fedsite.jobs.pages import writing

Report = Mapping[str, Any]

OUTCOMES = {
    "took_part": "counts",
    "left_out": "left out",
    "rejected": "not admitted",
    "late": "late",
    "refused": "declined",
    "revoked": "revoked",
    "at_work": "at work",
    "dropped": "dropped out",
    "absent": "absent",
}
"""What became of a site, by the part of `reports.round_report` that names it, and the page's word for it."""


@dataclass(frozen=True)
class Attendance:
    """What one site did. `begin` and `width` place its bar, from being asked to the update's last byte, in percent."""

    site: str
    outcome: str
    reason: str
    asked: str
    received: str
    bytes: int | None
    weight: float | None
    sha256: str
    begin: float
    width: float


@dataclass(frozen=True)
class Measured:
    """What the round's screen has measured of an update, and why it stands out, if it does."""

    site: str
    norm: float
    cosine: float | None
    outliers: float
    findings: str


@dataclass(frozen=True)
class Account:
    """All that the page says: the report, its sites one by one, the screen's measures, and the models' line.

    `line` leads from the round's first model back to one that a person brought, each with the round that made it.
    """

    report: Report
    sites: tuple[Attendance, ...]
    screened: tuple[Measured, ...]
    line: tuple[Mapping[str, Any], ...]
    lasted: str
    bytes: int

    @property
    def dropped(self) -> int:
        """How many sites were asked, or sent something, and do not count."""
        return sum(one.outcome not in ("counts", "at work", "absent") for one in self.sites)


def write(destination: Path, report: Report, line: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page (0600); `report` as `reports.round_report` gives it. Raises CannotWrite."""
    writing.write(destination, "round.html.j2", account=account_of(report, line))


def account_of(report: Report, line: Sequence[Mapping[str, Any]]) -> Account:
    """The report, sorted for people."""
    sites = tuple(_attendances(report))
    screen = report["screen"] or {"updates": {}, "findings": {}}
    screened = tuple(
        Measured(site, one["norm"], one["cosine"], one["outliers"], "; ".join(screen["findings"].get(site, [])))
        for site, one in screen["updates"].items()
    )
    return Account(
        report=report,
        sites=sites,
        screened=screened,
        line=tuple(line),
        lasted=_spoken(_instant(report["closed"]) - _instant(report["opened"])) if report["closed"] else "",
        bytes=sum(one.bytes or 0 for one in sites),
    )


def _attendances(report: Report) -> list[Attendance]:
    entries = [(outcome, one) for name, outcome in OUTCOMES.items() for one in report[name]]
    begin = _instant(report["opened"])
    known = [_instant(one["received"]) for _, one in entries if "received" in one]
    end = max([_instant(report["closed"] or report["opened"]), *known, begin + timedelta(seconds=1)])
    return [_attendance(outcome, one, report["asked"].get(one["site"], ""), begin, end) for outcome, one in entries]


def _attendance(outcome: str, entry: Report, asked: str, begin: datetime, end: datetime) -> Attendance:
    received = entry.get("received", "")
    first = (_instant(asked or entry["announced"]) - begin) / (end - begin) if received else 0.0
    last = (_instant(received) - begin) / (end - begin) if received else 0.0
    return Attendance(
        site=entry["site"],
        outcome=outcome,
        reason="; ".join(filter(None, [entry.get("reason", ""), "revoked since" if entry.get("revoked") else ""])),
        asked=asked,
        received=received,
        bytes=entry.get("bytes"),
        weight=entry.get("weight"),
        sha256=entry.get("update_sha256", ""),
        begin=round(100 * min(first, last), 2),
        width=round(max(100 * (last - first), 0.6), 2) if received else 0.0,
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _spoken(length: timedelta) -> str:
    """A span in its two largest units, such as `2 d 3 h`."""
    seconds = int(length.total_seconds())
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])
