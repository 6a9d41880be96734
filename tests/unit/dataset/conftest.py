from pathlib import Path

import pytest

from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks import registry
from fedsite.tasks.description import Task


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(b"k" * 32)


@pytest.fixture
def task() -> Task:
    return registry.get("stroke-dwi")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder
