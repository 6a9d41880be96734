"""What earlier runs have left is removed while other commands are at work in the same folders."""

from pathlib import Path

import pytest

from fedsite.errors import CannotWrite
from fedsite.jobs.round import leftovers


def test_a_file_that_another_command_takes_away_meanwhile_is_no_fault(tmp_path: Path) -> None:
    """`fedsite predict` fetches a model into the same folder: its half becomes the whole."""
    for name in ("half.part", "needed", "old"):
        (tmp_path / name).touch()

    def is_needed(file: Path) -> bool:
        (tmp_path / "half.part").unlink(missing_ok=True)
        return file.name == "needed"

    leftovers._keep(tmp_path, is_needed)
    assert [path.name for path in tmp_path.iterdir()] == ["needed"]


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "somebody's folder").mkdir()
    with pytest.raises(CannotWrite):
        leftovers._keep(tmp_path, lambda _file: False)
