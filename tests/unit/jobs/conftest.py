from pathlib import Path

import pytest
from support.site import Site


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a site that was set up, and has met nobody."""
    site = Site(tmp_path)
    site.set_up()
    return site.config
