"""A server that dies at any of its durable steps, or whose disk fails there: the series ends as if nothing had been.

Promised: the models are byte-equal to those of the undisturbed series, receipts are the same when they are asked for
again, each site's update counts once, and no half file is left. Clients are the library's, over real TLS, and try again
by themselves; the server is the installed command, which its supervisor starts again.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from support.faulty import Fault
from support.postgresql import PostgreSQL, postgresql
from support.series import NEVER, ROUNDS, Bench, Ended, Supervised, bench, copied

from fedsite.wire import transfer

STATES = {
    "an update is announced": "commit *into uploads*",
    "bytes have arrived": "write incoming/*",
    "an update has arrived": "rename updates/*",
    "it has its receipt": "commit *update uploads*receipt=*",
    "the round is closed": "commit *update rounds*'closing'*",
    "the screen has looked": "commit *into screens*",
    "the model is made": "rename models/*",
    "the next round is open": "commit *into rounds*",
    "what nobody needs any more is removed": "remove updates/*",
}
"""The boundaries of a round at a server, by the step that crosses them."""
# Where the other end is gone before TLS has begun, Python's ssl (3.11, SSLSocket._create) raises and forgets to close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
QUICK = ("it has its receipt", "the next round is open")


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update arrives in two parts, each of some blocks."""
    monkeypatch.setattr(transfer, "PART_BYTES", 4000)
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 1500)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def heavy(postgres: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("heavy"), database=postgres.database("template_of_all"))


@pytest.fixture(scope="module")
def undisturbed(light: Bench, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended, deaths = play(light, tmp_path_factory.mktemp("undisturbed"), NEVER)
    assert not deaths
    return ended


def play(
    bench: Bench, scratch: Path, fault: Fault, rounds: int = ROUNDS, database: str = "", *, mortal: bool = False
) -> tuple[Ended, list[int]]:
    """A series under one fault, and how often the server died."""
    server = Supervised(copied(bench, scratch / "server", database), fault=fault)
    with server.supervised():
        ended = bench.play(server, scratch, rounds, mortal=mortal)
        bench.assert_whole(server, ended)
    assert fault.what in ("eio", "full") or "Traceback" not in server.log
    return ended, server.deaths


def walk(what: str, scratch: Path, undisturbed: Ended, again: Callable[[int, Fault], tuple[Ended, list[int]]]) -> int:
    """One round again and again, each time with the fault a step later, until there is no such step; how many were."""
    for nth in count(1):
        told = scratch / f"{nth}.told"
        ended, deaths = again(nth, Fault(what, nth, told=str(told)))
        if not told.exists():
            return nth - 1
        assert deaths == ([] if what in ("eio", "full") else [-9]), told.read_text()
        assert ended.models == undisturbed.models[:1], told.read_text()
    raise AssertionError


@pytest.mark.fault(
    part="server",
    what="kill -9 of the server at each boundary of a round",
    where="`fedsite server run`, after announcement, bytes, receipt, closing, screen, model, next round, tidying",
    promised="restarted, the series ends with byte-equal models and the same receipts, nothing twice",
)
@pytest.mark.parametrize(
    "crossing",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name in STATES],
)
def test_kill_at_a_boundary(light: Bench, undisturbed: Ended, tmp_path: Path, crossing: str) -> None:
    ended, deaths = play(light, tmp_path, Fault("kill-after", pattern=STATES[crossing]))
    assert deaths == [-9]
    assert ended.models == undisturbed.models


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="server",
    what="kill -9 of the server and of all sites in one round",
    where="the server at each boundary, each site at whatever it sends, one thing later in each life",
    promised="the round ends with the byte-equal model and the same receipts, nothing twice",
)
@pytest.mark.parametrize("crossing", [name for name in STATES if name != "the next round is open"])
def test_both_are_killed(light: Bench, undisturbed: Ended, tmp_path: Path, crossing: str) -> None:
    ended, deaths = play(light, tmp_path, Fault("kill-after", pattern=STATES[crossing]), 1, mortal=True)
    assert deaths == [-9]
    assert ended.models == undisturbed.models[:1]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("what", "least"),
    [
        pytest.param(
            "kill-after",
            60,
            id="kill-after",
            marks=pytest.mark.fault(
                part="server",
                what="kill -9 of the server at the N-th step, for all N",
                where="after each step that lasts, before its answer",
                promised="the round ends with the byte-equal model and the same receipts, nothing twice",
            ),
        ),
        pytest.param(
            "kill-within",
            9,
            id="kill-within",
            marks=pytest.mark.fault(
                part="server",
                what="kill -9 of the server in the middle of the N-th write, for all N",
                where="half of the bytes are written",
                promised="the round ends with the byte-equal model and the same receipts, nothing twice",
            ),
        ),
        pytest.param(
            "power-cut",
            60,
            id="power-cut",
            marks=pytest.mark.fault(
                part="server",
                what="power cut at the server at the N-th step, for all N",
                where="what no fsync had made durable is lost",
                promised="the round ends with the byte-equal model and the same receipts, nothing twice",
            ),
        ),
        pytest.param(
            "eio",
            30,
            id="eio",
            marks=pytest.mark.fault(
                part="server",
                what="EIO at the server",
                where="each fsync, each commit",
                promised="the round ends with the byte-equal model and the same receipts, nothing twice",
            ),
        ),
        pytest.param(
            "full",
            30,
            id="full",
            marks=pytest.mark.fault(
                part="server",
                what="disk full at the server",
                where="each file, write and commit",
                promised="sites come back later (507); the round ends with the byte-equal model, nothing twice",
            ),
        ),
    ],
)
def test_a_fault_at_each_step(light: Bench, undisturbed: Ended, tmp_path: Path, what: str, least: int) -> None:
    steps = walk(what, tmp_path, undisturbed, lambda nth, fault: play(light, tmp_path / str(nth), fault, 1))
    assert steps >= least


@pytest.mark.fault(
    part="server",
    what="kill -9 of a server on PostgreSQL at the N-th step, for all N",
    where="after each step that lasts, before its answer",
    promised="the round ends with the byte-equal model and the same receipts, nothing twice",
)
@pytest.mark.exhaustive
def test_kill_at_each_step_on_postgresql(
    postgres: PostgreSQL, heavy: Bench, undisturbed: Ended, tmp_path: Path
) -> None:
    def again(nth: int, fault: Fault) -> tuple[Ended, list[int]]:
        postgres.say(f"CREATE DATABASE n{nth} TEMPLATE template_of_all", "postgres")
        counted = replace(fault, postgresql=True)
        return play(heavy, tmp_path / str(nth), counted, 1, postgres.url(f"n{nth}"))

    assert walk("kill-after", tmp_path, undisturbed, again) >= 60
