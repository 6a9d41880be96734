"""Programs that only tests need."""

import os
import shutil

import pytest


def require(program: str, package: str, path: str = f"{os.environ['PATH']}:/usr/sbin") -> str:
    """Where a program lies. Without it the test skips with the reason, and fails where CI is set."""
    found = shutil.which(program, path=path)
    if found is None:
        message = f"{program} of {package} is not here (scripts/setup --test-tools)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found
