"""What is told to others of a run, in a closed vocabulary: nothing of it depends on what patients' data look like.

An error's own words may hold counts, norms or pseudonyms, and stay at home: others hear its code, and a sentence that
is the same for all errors of one exit code.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fedsite import __version__
from fedsite.jobs.unattended.endings import Ending
from fedsite.jobs.unattended.streaks import Streak, clock, ordinal
from fedsite.site.unattended import Event

Told = Event | Literal["mended", "test"]

MEANINGS = {
    1: "A bug in fedsite.",
    65: "The data cannot be used as they are.",
    66: "A file or folder is missing.",
    69: "The federation could not be reached.",
    73: "No permission to write, or the disk is full.",
    74: "This site's own records are damaged or do not agree with the server's.",
    75: "Something must come first, such as a person's approval.",
    76: "The server broke the protocol, or did not admit this site's update.",
    77: "This site is not authorised: not enrolled, expired or revoked.",
    78: "The configuration, or a program that it names, must be mended.",
    80: "This site's policy does not allow what the plan asks for.",
    81: "The privacy budget is spent.",
}
_SENTENCES = {
    "start": "A round begins.",
    "success": "The run went well.",
    "mended": "What had gone wrong is mended.",
    "test": "A test: whoever reads this will hear of fedsite.",
}


@dataclass(frozen=True)
class Notice:
    """All that is told. `since` and `times` are of runs that ended in the same way, one after the other."""

    event: Told
    site: str = ""
    federation: str = ""
    round: int | None = None
    outcome: str = ""
    code: str = ""
    exit_code: int = 0
    since: str = ""
    times: int = 0

    @property
    def headline(self) -> str:
        """One line, such as `fedsite st-mary: failed (unreachable)`."""
        how = {"start": "a round begins", "mended": "mended", "test": "a test"}.get(self.event, self.outcome)
        return f"fedsite{f' {self.site}' if self.site else ''}: {how}{f' ({self.code})' if self.code else ''}"

    @property
    def text(self) -> str:
        """The same in a few lines, for people."""
        lines = [_SENTENCES.get(self.event) or MEANINGS.get(self.exit_code, "The run failed.")]
        if self.federation:
            lines.append(f"Federation {self.federation}{f', round {self.round}' if self.round else ''}.")
        if self.times > 1:
            lines.append(f"The {ordinal(self.times)} time in a row, since {clock(self.since)}.")
        if self.event in ("pending", "failure"):
            lines.append(f"Exit code {self.exit_code}. What it was, and the mend: fedsite status, at the site.")
        return "\n".join(lines)

    @property
    def as_data(self) -> dict[str, Any]:
        """For a webhook; `text` is what chat services show."""
        return {"schema": 1, "fedsite": __version__, "text": f"{self.headline}\n{self.text}", **asdict(self)}

    @property
    def as_json(self) -> bytes:
        """The webhook's body."""
        return json.dumps(self.as_data).encode()

    def ended(self, ending: Ending, streak: Streak | None) -> "Notice":
        """The same site and round, once the run has ended so."""
        event: Event = "success" if ending.went_well else "pending" if ending.waits else "failure"
        mine = streak if streak and streak.code == ending.code else None
        return replace(
            self,
            event=event,
            outcome=ending.outcome,
            code=ending.code,
            exit_code=ending.exit_code,
            since=mine.since if mine else "",
            times=mine.times if mine else 0,
        )

    def mended(self, streak: Streak) -> "Notice":
        """The end of a streak."""
        return replace(self, event="mended", outcome="mended", code=streak.code, since=streak.since, times=streak.times)
