"""Writes fedsite/RULES.md: every rule of the DICOM gate and of preparation, from the tables that the code uses.

tests/unit/docs/test_rules_page.py holds the page equal to the code.
"""

import string
from collections.abc import Mapping
from pathlib import Path

from fedsite.dataset.rules import RULES as PREPARATION
from fedsite.dicom.rules import RULES as GATE
from fedsite.dicom.rules.rule import Rule
from fedsite.files import write_atomically

PAGE = Path(__file__).parents[1] / "fedsite" / "RULES.md"

_TOP = """\
# Rules

Every finding that `fedsite inspect`, `fedsite prepare-data` and `fedsite predict` can give. An **error** keeps an
image, or a study, out; a **warning** only tells. Words in *italics* stand for what was counted or measured. In JSON a
finding has `id`, `severity`, `message`, `mend` and `where`, the pseudonym of the volume or study concerned (empty for
what concerns the whole source).

This page is made from the code by `scripts/rules_page`; a test holds both together.
"""
_GATE = """\
## The DICOM gate

What `inspect` and `prepare-data` find in headers, geometry and voxels of an export, and in label objects.
"""
_PREPARATION = """\
## Preparation

What `prepare-data` finds when it makes cases of images and masks, and `predict` when it segments images without any. A
study that a rule of the gate keeps from having a usable image is left out with that rule as its reason.
"""


def render() -> str:
    """The page."""
    return "\n".join([_TOP, _GATE, _table(GATE), _PREPARATION, _table(PREPARATION)])


def _table(rules: Mapping[str, Rule]) -> str:
    rows = [
        f"| `{rule.id}` | {rule.severity} | {_plain(rule.message)} | {_plain(rule.mend)} |" for rule in rules.values()
    ]
    return "\n".join(["| id | severity | what | what to do |", "| --- | --- | --- | --- |", *rows, ""])


def _plain(template: str) -> str:
    """The text of a rule, with the names of its facts in italics."""
    parts = string.Formatter().parse(template)
    text = "".join(words + (f"*{name.replace('_', ' ')}*" if name else "") for words, name, _, _ in parts)
    return text.replace("|", "\\|")


if __name__ == "__main__":
    write_atomically(PAGE, render().encode(), mode=0o644)
