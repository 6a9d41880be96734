"""The mutants are about the code as it is, and whoever survives is told."""

import ast
from pathlib import Path

import mutants
import pytest
from mutants import ROOT, Fate, NotFound
from mutants_of_privacy import MUTANTS, Mutant

NAMES = [mutant.name for mutant in MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_each_mutant_is_another_program(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    ast.parse(changed := mutants.mutated(mutant, source))
    assert changed != source


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_each_mutant_names_tests_that_there_are(mutant: Mutant) -> None:
    for test in mutant.tests:
        file, _, name = test.partition("::")
        functions = [
            node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
        ]
        assert name.partition("[")[0] in {function.name for function in functions}


def test_names_tell_mutants_apart() -> None:
    assert len(set(NAMES)) == len(NAMES) > 20


@pytest.mark.parametrize("source", ["", "x = 1\nx = 1\n"])
def test_a_text_that_is_not_there_once_is_told(source: str) -> None:
    with pytest.raises(NotFound, match=r"gone: its text stands [02] times in code\.py"):
        mutants.mutated(Mutant("gone", "code.py", "x = 1", "x = 2", ()), source)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one function, which one test knows and another does not; pytest starts there without plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(mutants, "PYTEST", [word for word in mutants.PYTEST if word != "-n0"])
    (tmp_path / "code_of_it.py").write_text("def f() -> int:\n    return 1\n")
    for name, expected in (("knows", "== 1"), ("cares_not", "is not None")):
        text = f"from code_of_it import f\n\n\ndef test_{name}() -> None:\n    assert f() {expected}\n"
        (tmp_path / f"test_{name}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("named", "rooms", "seen"),
    [
        ("test_knows.py", (), "test_knows.py::test_knows"),
        ("test_cares_not.py", ("test_knows.py",), "test_knows.py::test_knows"),
        ("test_cares_not.py", ("test_cares_not.py",), None),
    ],
)
def test_a_mutants_fate(
    copy: Path, monkeypatch: pytest.MonkeyPatch, named: str, rooms: tuple[str, ...], seen: str | None
) -> None:
    monkeypatch.setattr(mutants, "ROOMS", rooms)
    mutant = Mutant("two", "code_of_it.py", "return 1", "return 2", (named,))
    assert mutants.fate_of(mutant, copy).test == seen
    assert "return 1" in (copy / "code_of_it.py").read_text(), "the next mutant begins with the code as it is"


def test_a_test_that_is_gone_is_no_failure_of_a_test(copy: Path) -> None:
    with pytest.raises(RuntimeError, match="pytest ended with 4"):
        mutants.failing_test(copy, ["test_gone.py"])


def test_who_survives_stands_in_the_table() -> None:
    table = mutants.report([Fate(MUTANTS[0], None, 1.0), Fate(MUTANTS[1], "a::b", 2.0)])
    assert list(table.columns[2].cells) == ["SURVIVED", "a::b"]
