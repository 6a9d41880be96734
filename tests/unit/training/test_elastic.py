"""How a training in several processes ends. Processes at work: tests/integration/jobs/test_launch.py."""

import signal
import socket
from types import SimpleNamespace

import pytest

from fedsite.errors import WorkersLost
from fedsite.training import elastic
from fedsite.training.elastic import Layout


def never(url: str) -> None:
    raise AssertionError("nothing was to be started")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_machines_that_do_not_come_are_waited_for_no_longer_than_said(port, monkeypatch):
    monkeypatch.setattr(elastic, "MEETING_SECONDS", 1)
    handlers = [signal.getsignal(one) for one in elastic.SIGNALS]
    with pytest.raises(WorkersLost, match="2 machines of this training did not meet") as lost:
        elastic.run(Layout(1, 2, f"127.0.0.1:{port}"), never, ())
    assert lost.value.exit_code == 75
    assert [signal.getsignal(one) for one in elastic.SIGNALS] == handlers


@pytest.mark.parametrize(
    ("code", "words", "killed", "memory"),
    [(-9, "ended by SIGKILL", True, True), (-11, "ended by SIGSEGV", True, False), (1, "with code 1", False, False)],
)
def test_the_error_says_how_a_process_ended(code, words, killed, memory):
    failure = SimpleNamespace(exitcode=code, signal_name=lambda: signal.Signals(-code).name)
    lost = elastic._lost((1, failure), Layout(2))
    assert lost.message == f"Training process 2 of 2 {'was ' * killed}{'ended ' * (not killed)}{words}."
    assert lost.killed == killed
    assert ("memory" in lost.mend) == memory
