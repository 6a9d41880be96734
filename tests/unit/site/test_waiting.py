"""Waits that end."""

import threading

import pytest

from fedsite.site.waiting import within


def test_what_it_gives_and_what_it_raises() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_it_ends() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, lambda: never.wait(60))
    never.set()
