"""Fixtures that whole folders of tests share: a real server, and one enrolled site, set up once a module."""

from collections.abc import Iterator

import pytest
from support.browser import Browser, browser
from support.federation import Server, running
from support.site import Site


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A federation served by a real process; each test opens a round of its own."""
    with running(tmp_path_factory.mktemp("federation") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Site `site-a`, initialised and enrolled."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.init()
    site.enroll(server.invite("site-a"))
    return site


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser's tab; the tests that need it skip where there is no browser."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(autouse=True, scope="module")
def untraced() -> Iterator[None]:
    """Commands run without coverage: the tests of their parts measure it, and tracing doubles a command's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
