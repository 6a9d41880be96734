"""FAULTS.md: its rows are what the tests bring about."""

import re
from pathlib import Path

import faults
import pytest

ROWS = faults.rows()


def test_the_page_is_what_the_tests_bring_about() -> None:
    assert faults.render(ROWS) == faults.PAGE.read_text(), "write it anew: scripts/faults --page"


def test_no_part_is_empty_and_the_matrix_is_not_short() -> None:
    assert {row.part for row in ROWS} == set(faults.PARTS)
    assert len(ROWS) >= 30
    assert len({row.what for row in ROWS}) == len(ROWS), "two rows say the same"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.test.rpartition("::")[2])
def test_a_row_is_one_line_of_plain_words(row: faults.Row) -> None:
    for text in (row.what, row.where, row.promised):
        assert text
        assert not set(text) & {"|", "\n"}
        assert text[-1] != "."


def test_a_mark_on_a_parameter_is_that_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = "part='site', what='w', where='x', promised='y'"
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        f"@pytest.mark.exhaustive\n@pytest.mark.parametrize('a', [pytest.param(1, id='one',"
        f" marks=pytest.mark.fault({fields})), 2])\ndef test_a(a): ...\n"
        f"@pytest.mark.fault({fields})\ndef test_b(): ...\n"
    )
    monkeypatch.setattr(faults, "ROOT", tmp_path)
    assert [(row.test, row.exhaustive) for row in faults.rows()] == [
        ("tests/test_a.py::test_a[one]", True),
        ("tests/test_a.py::test_b", False),
    ]


def test_a_row_passes_when_all_its_cases_do() -> None:
    outcomes, row = faults.Outcomes(), ROWS[0]
    assert outcomes.of(row) == "skipped"
    outcomes.passed.add(f"{row.test}[case]" if "[" not in row.test else row.test)
    assert outcomes.of(row) == "passed"
    outcomes.failed.add(f"{row.test}")
    assert outcomes.of(row) == "FAILED"
    assert re.fullmatch(r"\|( [^|]+ \|){4}", row.cells)
