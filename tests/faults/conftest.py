"""A real server and one enrolled site, set up once a module: each test opens a round of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import Server, running
from support.site import Site


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("federation") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("site"))
    site.init()
    site.enroll(server.invite("site-a"))
    return site


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path
