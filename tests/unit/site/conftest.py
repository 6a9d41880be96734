"""A state folder of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsite.site.state import State


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.create(tmp_path / "state") as opened:
        yield opened
