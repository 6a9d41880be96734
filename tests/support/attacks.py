"""Attacks, each of which a test carries out: what the attacker does, and what comes of it.

A test module lists them as its `ATTACKS`, runs them all through `cases`, and so may add what a test needs to carry one
out in a class of its own. The tables in .github/SECURITY.md are made from these tuples.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Attack:
    """One attack: a name for the test, and one line each for the table's two columns."""

    id: str
    what: str
    answer: str

    def __post_init__(self) -> None:
        """A row of a table is one line, without the table's own sign."""
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id), self.id
        for text in (self.what, self.answer):
            assert text
            assert not set(text) & {"|", "\n"}, text


def cases(attacks: Sequence[Attack]) -> list[Any]:
    """The attacks as a test's parameters, named by their ids, of which none may be there twice."""
    assert len({one.id for one in attacks}) == len(attacks), "two attacks have one id"
    return [pytest.param(one, id=one.id) for one in attacks]
