"""SECURITY.md: its tables are what the tests carry out, and every test that it names is there."""

import re

import attack_tables
import pytest

PAGE = attack_tables.PAGE.read_text()
LEAST = {"plans": 20, "answers": 20, "updates": 20}


def test_the_tables_are_what_the_tests_carry_out() -> None:
    assert attack_tables.render(PAGE) == PAGE, "write them anew: scripts/attack_tables"


@pytest.mark.parametrize("name", attack_tables.TESTS)
def test_no_table_is_short(name: str) -> None:
    assert sum(len(attack_tables.attacks(module)) for module in attack_tables.TESTS[name]) >= LEAST[name]


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"tests/[\w/]+\.py", PAGE))
    assert {name for name in named if not (attack_tables.ROOT / name).is_file()} == set()
    assert len(named) > 20


def test_every_adversary_is_held_by_tests() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\*[^|]*\|[^|]+\|[^|]+\|([^|]+)\|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    assert [name for name, tests in rows if "tests/" not in tests] == []


def test_a_table_that_was_changed_by_hand_is_noticed() -> None:
    assert attack_tables.render(PAGE.replace("| `pickle` |", "| `pickles` |")) == PAGE
    with pytest.raises(IndexError):
        attack_tables.render(PAGE.replace("<!-- /plans -->", ""))
