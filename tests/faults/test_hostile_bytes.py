"""Bytes from the network and files that somebody spoilt: refused as promised, or meaning what they say.

Some hundred cases, and those that once found something; `scripts/fuzz_wire` runs 100,000.
"""

import base64
from pathlib import Path

import pytest
from support.hostile.hunt import Catch, hunt, judged
from support.hostile.targets import Target, targets

from fedsite.wire.messages import MalformedMessage, Trust, parse

SEED, CASES = 20, 60
TARGETS = targets()
KEPT = [
    line.split()
    for line in Path(__file__).with_name("hostile_seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize("name", TARGETS)
def test_some_cases(name: str) -> None:
    found = hunt(TARGETS[name], CASES, SEED)
    assert found.error == "", found.line(name)
    assert 0 < found.accepted < CASES, "the changes bite, and not always"


@pytest.mark.parametrize(("name", "content"), KEPT)
def test_kept_cases(name: str, content: str) -> None:
    judged(TARGETS[name], base64.b64decode(content))


def test_a_parser_that_trips_is_caught() -> None:
    """With the check for numbers that are none left out, the search comes upon one."""

    def trips(content: bytes) -> bool:
        if b"NaN" in content:
            raise KeyError("NaN")
        try:
            parse(Trust, content)
        except MalformedMessage:
            return False
        return True

    found = hunt(Target(TARGETS["trust"].hostile, trips), 2000, SEED)
    assert "KeyError" in found.error
    assert b"NaN" in found.content


def test_a_slow_parser_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.hostile.hunt.CPU_SECONDS", 0.0)
    assert "s of CPU" in hunt(TARGETS["question"], 5, SEED).error
    assert Catch(1, 0, b"x").line("plan") == "plan eA=="
