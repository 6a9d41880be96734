"""CONTRIBUTING names every room and every law, and each law the tests that hold it."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
LAWS = 9
ROOMS = ("*", "jobs/*")


def test_every_room_is_in_the_table() -> None:
    rooms = Counter(path.parent.name for kind in ROOMS for path in (ROOT / "fedsite").glob(f"{kind}/__init__.py"))
    modules = Counter({path.stem for path in (ROOT / "fedsite").glob("*.py")} - {"__init__"})
    table = re.findall(r"^\| (`[^|]+`) \|[^|]+\|[^|]+\|$", TEXT, re.MULTILINE)
    named = Counter(name for cell in table for name in re.findall(r"`([a-z]+)`", cell))
    assert rooms + modules <= named


def test_every_law_is_held_by_tests() -> None:
    laws = dict(re.findall(r"^\| (\d) \| \*\*.*\| ([^|]+) \|$", TEXT, re.MULTILINE))
    assert sorted(laws) == [str(number) for number in range(1, LAWS + 1)]
    for number, held_by in laws.items():
        files = held_by.split(", ")
        assert all(re.fullmatch(r"tests/[a-z_/]+\.py", name) and (ROOT / name).is_file() for name in files), number


def test_every_script_is_in_the_first_block() -> None:
    first = re.search(r"```\n(.*?)```", TEXT, re.DOTALL)
    assert first is not None
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}
    assert scripts <= set(re.findall(r"scripts/(\w+)", first[1]))
