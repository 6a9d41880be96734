"""Lines between sites and server that are cut, swallow, lose and crawl; the round ends as over a good one."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support import relay
from support.series import NEVER, Bench, Supervised, bench, copied

from fedsite.wire import transfer, transport

PLACES = (100, 2_500, 4_000, 5_500, 7_000, 3_000, 8_000)
"""After so many bytes a connection meets its fate: in the handshake, in a request, in the middle of either part."""


@pytest.fixture(autouse=True)
def small_parts_and_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 4000)
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(transport, "TIMEOUT", httpx.Timeout(1.0))


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def good_line(light: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return play(light, tmp_path_factory.mktemp("good"), relay.forward)


def play(bench: Bench, scratch: Path, behave: relay.Behaviour) -> tuple[str, ...]:
    """The models of a round that was played over such a line."""
    server = Supervised(copied(bench, scratch / "server"), fault=NEVER)
    with server.supervised(), relay.relayed(server.port, behave) as port:
        ended = bench.play(server, scratch, 1, f"https://localhost:{port}")
        bench.assert_whole(server, ended)
    assert not server.deaths
    assert "Traceback" not in server.log
    return ended.models


def counted(places: Iterator[int], left: list[int]) -> Iterator[int]:
    for place in places:
        left.append(place)
        yield place


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(
            relay.resetting,
            id="resetting",
            marks=pytest.mark.fault(
                part="line",
                what="connections are reset",
                where="seven places from the handshake to the end of an upload",
                promised="the round ends with the byte-equal model and the same receipts, nothing twice",
            ),
        ),
        pytest.param(
            relay.losing_answers,
            id="losing_answers",
            marks=pytest.mark.fault(
                part="line",
                what="answers are lost",
                where="the request has arrived, its answer does not: seven places",
                promised="the round ends with the byte-equal model and the same receipts, nothing twice",
            ),
        ),
        pytest.param(
            relay.swallowing,
            id="swallowing",
            marks=[
                pytest.mark.exhaustive,
                pytest.mark.fault(
                    part="line",
                    what="connections stall, half-open",
                    where="nothing more arrives in either direction, and nobody is told: seven places",
                    promised="the round ends with the byte-equal model and the same receipts, nothing twice",
                ),
            ],
        ),
    ],
)
def test_connections_that_end_badly(light: Bench, good_line: tuple[str, ...], tmp_path: Path, line) -> None:
    used: list[int] = []
    assert play(light, tmp_path, line(counted(iter(PLACES), used))) == good_line
    assert len(used) == len(PLACES), "it must have been met by all of them"


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="line",
    what="30% loss",
    where="each block, with the waits of TCP's retransmissions, and a cut after five",
    promised="the round ends with the byte-equal model and the same receipts, nothing twice",
)
def test_a_line_that_loses_30_percent(light: Bench, good_line: tuple[str, ...], tmp_path: Path) -> None:
    assert play(light, tmp_path, relay.lossy(0.3, seed=1)) == good_line


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="line",
    what="a slow link",
    where="4 kB a second",
    promised="the round ends with the byte-equal model and the same receipts, nothing twice",
)
def test_a_slow_link(light: Bench, good_line: tuple[str, ...], tmp_path: Path) -> None:
    """Slower than the wait for any one answer allows for the whole."""
    assert play(light, tmp_path, relay.slow(4_000)) == good_line
