"""Writes the tables of .github/SECURITY.md: every attack that a test carries out, and what comes of it.

tests/unit/docs/test_security_page.py holds the page equal to the tests.
"""

from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from support.attacks import Attack

from fedsite.files import write_atomically

ROOT = Path(__file__).parents[1]
PAGE = ROOT / ".github" / "SECURITY.md"
TESTS = {
    "plans": ("tests/integration/jobs/test_plan_attacks.py", "tests/integration/jobs/test_tickets.py"),
    "answers": ("tests/integration/server/test_hostile_answers.py",),
    "updates": ("tests/integration/server/test_attacks.py",),
}
"""Each table of the page, and the modules whose `ATTACKS` it holds."""


def attacks(module: str) -> tuple[Attack, ...]:
    """The attacks of a test module, by its path in the project."""
    spec = spec_from_file_location(f"attacks_{Path(module).stem}", ROOT / module)
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return tuple(found.ATTACKS)


def render(page: str) -> str:
    """The page with its tables as the tests have them. Raises IndexError where a table has lost its place."""
    for name, modules in TESTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, after = page.split(begin)[0], page.split(end)[1]
        page = "\n".join([before + begin, "", *_table(modules), "", end + after])
    return page


def _table(modules: Iterable[str]) -> list[str]:
    rows = ["| | attack | what comes of it |", "| --- | --- | --- |"]
    for module in modules:
        rows += [f"| `{one.id}` | {one.what} | {one.answer} |" for one in attacks(module)]
    return [*rows, "", "Held by " + ", ".join(f"`{module}`" for module in modules) + "."]


if __name__ == "__main__":
    write_atomically(PAGE, render(PAGE.read_text()).encode(), mode=0o644)
