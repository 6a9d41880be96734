"""The page of this site's rounds, for its people: what each one brought, and what left in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsite.jobs.pages import curves, writing
from fedsite.jobs.pages.curves import RoundFacts

_MOST_RELEASES = 12


@dataclass(frozen=True)
class Release:
    """What left in a round, as `egress.describe` says it, with histograms of the whole and of each block."""

    round: int
    facts: Mapping[str, Any]

    @property
    def charts(self) -> tuple[curves.Chart, ...]:
        """With the noise, where it is added to these very values."""
        noised = self.facts["mechanism"] == "gaussian-update"
        deviation = self.facts["noise_standard_deviation"] if noised else None
        return curves.histograms(self.blocks, deviation)

    @property
    def blocks(self) -> tuple[Mapping[str, Any], ...]:
        """The whole update, then block by block."""
        return ({**self.facts, "name": "whole update"}, *self.facts["blocks"])


def write(path: Path, federation: str, rounds: Sequence[RoundFacts], left: Mapping[int, Mapping[str, Any]]) -> None:
    """The page of this site's rounds: a table, curves, and what left in the newest of them. Raises CannotWrite.

    `left` is what `egress.kept` gives: by round, what its release is.
    """
    releases = [Release(number, left[number]) for number in sorted(left, reverse=True)[:_MOST_RELEASES]]
    writing.write(
        path,
        "rounds.html.j2",
        federation=federation,
        rounds=rounds,
        charts=curves.charts(rounds),
        releases=releases,
    )
