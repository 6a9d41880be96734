"""The coordinator of a federation under test: opens series, closes rounds, reads what came of them."""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from support.federation import Server, model_file, plan_file

from fedsite.server import federation as federations
from fedsite.server.exchange import participation
from fedsite.server.rounds import reports
from fedsite.server.store.storage import RoundRow
from fedsite.wire.messages import Arrival, utc_now

SHAPES = {"first.weight": (160, 160), "first.bias": (160,), "last.weight": (40, 5, 3)}
MODEL_BYTES = 4 * sum(math.prod(shape) for shape in SHAPES.values())
"""Of the model: some 100 kB, which a line can break in the middle of."""
UNENDED = ("open", "closing", "held")
PATIENCE_SECONDS = 60.0


class Stuck(Exception):
    """Something did not come about that must."""


@dataclass
class Coordinator:
    """Uses the installed commands for what changes something, and reads the federation's folder.

    `rules` are the sections of its plans; `plan_days`: how long one is valid.
    """

    server: Server
    scratch: Path
    rules: Mapping[str, Any]
    plan_days: float
    plans: int = 0

    def __post_init__(self) -> None:
        self.federation = federations.open_federation(self.server.folder)
        self.model = model_file(self.scratch / "model.safetensors", shapes=SHAPES)

    def reports(self) -> list[dict[str, Any]]:
        """All rounds, each with what every site did in it."""
        return [reports.round_report(self.federation, row.number) for row in self._rows()]

    def arrivals(self, site: str) -> list[Arrival]:
        """What the server has had of a site, with its receipts."""
        found: list[Arrival] = []
        while some := participation.arrivals(self.federation, site, found[-1].round if found else 0).arrivals:
            found += some
        return found

    def opened(self, count: int) -> int:
        """The round that is open, once the server has done what is due. Where there is none, the series goes on (a
        round without a model has paused it), or another one is opened.
        """
        number = self.settled()
        if number is None:
            if not self.plans or self.server.run("server", "round", "resume").returncode != 0:
                self._open(count)
            number = self.settled()
        if number is None:
            raise Stuck("no round is open although a series goes on")
        return number

    def settled(self) -> int | None:
        """The round that takes updates; None where none is open. A deadline that has passed is waited for."""
        now = utc_now()

        def nothing_due() -> bool:
            return not any(
                row.status in UNENDED and (row.status != "open" or row.expires <= now) for row in self._rows()
            )

        self._wait(nothing_due, "the end of a round whose deadline is over")
        return next((row.number for row in self._rows() if row.status in UNENDED), None)

    def close(self, number: int) -> None:
        """Closes a round as its deadline would, unless it has ended by itself; waits for its end."""
        if not self._ended(number):
            answer = self.server.run("server", "round", "close", str(number))
            if answer.returncode not in (0, 2):  # 2: it has ended by itself meanwhile
                raise Stuck(answer.stderr)
        self._wait(lambda: self._ended(number), f"the end of round {number}")

    def ended(self) -> int:
        """How many rounds have ended."""
        return sum(row.status not in UNENDED for row in self._rows())

    def _ended(self, number: int) -> bool:
        return any(row.number == number and row.status not in UNENDED for row in self._rows())

    def _rows(self) -> Sequence[RoundRow]:
        with self.federation.database.reading() as session:
            return session.scalars(select(RoundRow).order_by(RoundRow.number)).all()

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            if time.monotonic() > end:
                raise Stuck(f"{what} did not come within {PATIENCE_SECONDS:.0f} seconds")
            time.sleep(0.05)

    def _open(self, count: int) -> None:
        """Opens a series on the newest model, under a plan of a new name."""
        newest = [row.result_sha256 for row in self._rows() if row.result_sha256]
        if newest:
            shutil.copyfile(self.federation.models.path(newest[-1]), self.model)
        self.plans += 1
        expires = utc_now() + timedelta(days=self.plan_days)
        about = {"plan": f"soak-{self.plans}", "expires": expires.isoformat(timespec="seconds"), **self.rules}
        plan = plan_file(self.scratch, **about)
        answer = self.server.run(
            "server", "round", "open", str(plan), "--model", str(self.model), "--rounds", str(count)
        )
        if answer.returncode != 0:
            raise Stuck(answer.stderr)
