from collections.abc import Iterator

import pytest
from support.federation import Server, running

from fedsite.wire.client import TlsIdentity


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server process for the tests of a module."""
    with running(tmp_path_factory.mktemp("server") / "federation") as server:
        yield server


@pytest.fixture(scope="module")
def site_a(server: Server, tmp_path_factory: pytest.TempPathFactory) -> TlsIdentity:
    """An enrolled site."""
    return server.enrol("site-a", tmp_path_factory.mktemp("site-a"))
