"""The thread that keeps rounds moving."""

import logging
import threading

import pytest
from support.authorities import chain_of_three, write
from support.federation import make

from fedsite.errors import ConfigurationError
from fedsite.server.authority.context import server_context
from fedsite.server.rounds import rounds
from fedsite.server.web import run
from fedsite.server.web.run import Ticker, serve


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
    ticker.start()
    assert advanced.acquire(timeout=5)
    ticker.wake()
    assert advanced.acquire(timeout=5), "it has looked, and there was nothing to renew"
    bench.clock.pass_by(days=80)  # as for a machine that was asleep: what it measures has not gone on
    ticker.wake()
    assert advanced.acquire(timeout=5)
    ticker.stop()
    assert bench.federation.server_certificate.read_bytes() != before


def test_an_authority_that_ends_is_said_and_one_that_has_ended_is_not_served(
    bench, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = chain_of_three(days=200)
    federation = make(tmp_path / "short", bench.clock, supplied=write(tmp_path / "ca", authority))
    run._check_authority(federation)
    assert caplog.text == ""
    bench.clock.pass_by(days=30)
    run._check_authority(federation)
    assert "ends on" in caplog.text
    assert "authority replace" in caplog.text
    bench.clock.pass_by(days=200)
    with pytest.raises(ConfigurationError, match="has ended") as caught:
        serve(federation, "127.0.0.1", 0, lambda address: None)
    assert "authority replace" in caught.value.mend
    bench.clock.pass_by(days=4000)
    with pytest.raises(ConfigurationError) as caught:
        serve(bench.federation, "127.0.0.1", 0, lambda address: None)
    assert "new federation" in caught.value.mend
