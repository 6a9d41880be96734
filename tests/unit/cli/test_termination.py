"""SIGTERM comes through, also where a library drops what its handler raises."""

import signal
import sys
import time
from collections.abc import Iterator

import pytest

from fedsite.cli.termination import STOPS, Terminated, heeded
from fedsite.errors import ConfigurationError


class Callback:
    """Told to stop while a library's code is at work: what is raised in `__del__` is dropped."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)
        for _ in range(1000):  # somewhere here the handler is called
            pass


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C is ignored by what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_is_raised_and_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(Terminated), heeded():
        signal.raise_signal(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


@pytest.mark.parametrize("kind", STOPS)
def test_what_was_dropped_is_raised_again(kind: type[BaseException]) -> None:
    with pytest.raises(kind), heeded():  # noqa: PT012
        Callback(STOPS[kind])
        began = time.monotonic()
        time.sleep(60)
    assert time.monotonic() - began < 30, "nor may it wait for the end of what the run waits for"


def test_what_fails_because_it_was_dropped_was_stopped() -> None:
    with pytest.raises(Terminated), heeded():  # noqa: PT012
        Callback(signal.SIGTERM)
        raise ConfigurationError("site.yaml is not written as it must be.", "See a pattern that was not asked.")


def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(ConfigurationError), heeded():
        raise ConfigurationError("site.yaml is not written as it must be.", "Write it.")
