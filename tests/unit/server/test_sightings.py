"""When sites were here: to the minute, of whoever was let in, and at no price."""

import asyncio

import httpx
import pytest

from fedsite.errors import CannotWrite
from fedsite.server.members.sightings import Sightings, last_seen


def status(app, path: str) -> int:
    async def once() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as http:
            return (await http.get(path)).status_code

    return asyncio.run(once())


def test_a_site_that_is_let_in_is_seen(bench, site_app) -> None:
    app = site_app()
    assert status(app, "/v1/federation") == 200
    assert last_seen(bench.federation) == {}, "what everybody may ask says nothing of a site"
    assert status(app, "/v1/trust") == 200
    assert last_seen(bench.federation) == {"site-a": bench.clock.now}


def test_one_writing_a_minute(bench) -> None:
    sightings, first = Sightings(bench.federation), bench.clock.now
    sightings.note("a")
    bench.clock.pass_by(seconds=59)
    sightings.note("a")
    sightings.note("b")
    assert last_seen(bench.federation) == {"a": first, "b": bench.clock.now}
    bench.clock.pass_by(seconds=1)
    sightings.note("a")
    assert last_seen(bench.federation)["a"] == bench.clock.now


def test_a_full_disk_refuses_nobody_and_is_tried_again(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full():
        raise CannotWrite("The disk is full.")

    sightings = Sightings(bench.federation)
    with monkeypatch.context() as patch:
        patch.setattr(bench.federation.database, "writing", full)
        sightings.note("a")
    assert last_seen(bench.federation) == {}
    sightings.note("a")
    assert set(last_seen(bench.federation)) == {"a"}
