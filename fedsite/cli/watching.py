"""A round, followed until it has ended: drawn anew on a terminal, line by line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fedsite.cli.output import Output
from fedsite.errors import TryAgainLater

if TYPE_CHECKING:
    from fedsite.server.federation import Federation

Report = dict[str, Any]

PAUSE_SECONDS = 1.0
OVERDUE_SECONDS = 600.0
"""How long a round may stand still after its time before nobody is thought to see it through."""

_TOLD = ("took_part", "left_out", "rejected", "refused", "late", "dropped", "revoked")


def follow(out: Output, federation: "Federation", number: int, text: Callable[[Report], str]) -> Report:
    """Shows a round on stderr until it has ended; gives its last report.

    Raises UsageError when there is no such round, TryAgainLater when its time is long over and nothing happens.
    """
    from fedsite.server.rounds.reports import round_report
    from fedsite.server.rows import UNFINISHED

    report, changed = round_report(federation, number), time.monotonic()
    with _shown(out, text) as show:
        show(report)
        while report["status"] in UNFINISHED:
            if _is_over(federation, report) and time.monotonic() - changed > OVERDUE_SECONDS:
                raise TryAgainLater(
                    f"The time of round {number} is over, and nobody sees it through.", "Is fedsite server run at work?"
                )
            time.sleep(PAUSE_SECONDS)
            before, report = report, round_report(federation, number)
            if report != before:
                changed = time.monotonic()
                show(report)
    return report


def _is_over(federation: "Federation", report: Report) -> bool:
    """Whether neither sites nor a person are waited for."""
    held = report["status"] == "held" and report["screen"]["held_until"]
    return datetime.fromisoformat(held or report["takes_until"]) < federation.clock()


@contextmanager
def _shown(out: Output, text: Callable[[Report], str]) -> Iterator[Callable[[Report], None]]:
    if out.quiet:
        yield lambda _report: None
    elif not sys.stderr.isatty():
        yield _Lines(out)
    else:
        from rich.live import Live
        from rich.text import Text

        with Live(console=out.stderr, transient=True, auto_refresh=False) as live:
            yield lambda report: live.update(Text(text(report)), refresh=True)


class _Lines:
    """Tells what has changed since the last report, a line each."""

    def __init__(self, out: Output) -> None:
        self._out, self._told = out, set[str]()

    def __call__(self, report: Report) -> None:
        """Tells what was not told before."""
        lines = [f"Round {report['round']} is {report['status']}: {report['updates']} updates of {report['quorum']}"]
        for name in _TOLD:
            lines += [f"{one['site']}: {name.replace('_', ' ')}" for one in report[name]]
        for line in lines:
            if line not in self._told:
                self._out.note(line)
        self._told.update(lines)
