"""The page of rules says what the code does."""

from importlib.resources import files

import pytest
import rules_page

from fedsite.dataset.rules import RULES as PREPARATION
from fedsite.dicom.rules import RULES as GATE

PAGE = files("fedsite").joinpath("RULES.md").read_text("utf-8")


def test_the_page_is_what_the_rules_make_of_it() -> None:
    assert rules_page.render() == PAGE, "write it anew: scripts/rules_page"


@pytest.mark.parametrize("rule", [*GATE.values(), *PREPARATION.values()], ids=lambda rule: rule.id)
def test_a_rule_is_a_row_without_placeholders(rule) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{rule.id}` | {rule.severity} |")]
    assert rows
    assert all("{" not in row and row.count(" | ") == 3 for row in rows)
