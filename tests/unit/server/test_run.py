"""The thread that keeps rounds moving."""

import logging
import threading

import pytest

from fedsite.server import rounds, run
from fedsite.server.run import Ticker
from fedsite.server.tls import server_context


@pytest.fixture
def ticker(bench):
    context = server_context(bench.federation.server_certificate, bench.federation.ca_certificate)
    ticker = Ticker(bench.federation, context)
    yield ticker
    ticker.stop()


def test_it_is_woken_at_once(ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TICK_SECONDS", 3600.0)
    called = threading.Semaphore(0)
    monkeypatch.setattr(rounds, "advance", lambda federation: called.release())
    ticker.start()
    assert called.acquire(timeout=5)
    ticker.wake()
    assert called.acquire(timeout=5)


def test_it_survives_a_failure_and_says_so(
    ticker: Ticker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "AFTER_FAILURE_SECONDS", 0.0)
    survived = threading.Event()
    answers = iter([RuntimeError("a model is gone"), None])

    def advance(federation: object) -> None:
        answer = next(answers, None)
        if answer is not None:
            raise answer
        survived.set()

    monkeypatch.setattr(rounds, "advance", advance)
    with caplog.at_level(logging.ERROR):
        ticker.start()
        assert survived.wait(5)
    assert "rounds cannot go on" in caplog.text


def test_it_renews_the_servers_certificate(bench, ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.federation.server_certificate.read_bytes()
    advanced = threading.Semaphore(0)
    monkeypatch.setattr(rounds, "advance", lambda federation: advanced.release())
    bench.clock.pass_by(days=80)
    ticker.start()
    assert advanced.acquire(timeout=5)
    ticker.stop()
    assert bench.federation.server_certificate.read_bytes() != before
