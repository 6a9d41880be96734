"""What every test may ask for."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

# Whoever runs the tests may let a group write their files; a site.yaml that it may write would be refused.
os.umask(0o022)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real cases that nobody in this project made; the tests pass without it."""
    folder = Path(os.environ.get("FEDSITE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "truth.json").is_file():
        pytest.skip("the real cases are not here (set FEDSITE_TEST_DATA to their folder)")
    return folder
