"""The tables of rules: each rule is planted by a test somewhere, and reads as sentences do."""

import re
from functools import cache
from pathlib import Path

import pytest

from fedsite.dataset.rules import RULES as PREPARATION
from fedsite.dicom.rules import RULES as GATE
from fedsite.dicom.rules.rule import Rule

TESTS = Path(__file__).parents[2]


@cache
def named_in_tests() -> frozenset[str]:
    """Every text that a test compares with."""
    sources = (path.read_text() for path in TESTS.rglob("test_*.py") if path.parent.name != "docs")
    return frozenset(name for source in sources for name in re.findall(r'"([a-z][a-z0-9-]+)"', source))


@pytest.mark.parametrize("rule", sorted({*GATE, *PREPARATION}))
def test_a_test_plants_it(rule: str) -> None:
    assert rule in named_in_tests()


@pytest.mark.parametrize("rule", PREPARATION.values(), ids=lambda rule: rule.id)
def test_rules_read_as_sentences(rule: Rule) -> None:
    assert rule.message[0].isupper() or rule.message[0] == "{"
    assert rule.message.endswith((".", ": {reason}", ". {reason}"))
    assert rule.mend.endswith(".")
    assert rule.id == rule.id.lower().replace(" ", "-")
