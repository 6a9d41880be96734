import threading
import time

import pytest

from fedsite.training.prefetch import DEPTH, prefetched


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_everything_comes_in_order():
    with prefetched(lambda number: number * number, range(3, 40)) as made:
        assert list(made) == [number * number for number in range(3, 40)]
    assert not threads()


def test_it_works_ahead_and_no_further():
    started = []
    with prefetched(lambda number: started.append(number), range(100)) as made:
        next(made)
        deadline = time.monotonic() + 5
        while len(started) < DEPTH and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert started == list(range(DEPTH))
        next(made)
    assert len(started) <= DEPTH + 2


def test_what_goes_wrong_is_raised_where_it_is_waited_for():
    def make(number):
        if number == 2:
            raise KeyError("broken case")
        return number

    with prefetched(make, range(10)) as made:
        assert [next(made), next(made)] == [0, 1]
        with pytest.raises(KeyError, match="broken case"):
            next(made)
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_no_thread_outlives_its_block(error):
    def leave():
        with prefetched(lambda number: bytes(10), range(1000)) as made:
            next(made)
            raise error

    with pytest.raises(error):
        leave()
    assert not threads()


def test_nothing_to_make():
    with prefetched(lambda number: 1 / 0, range(0)) as made:
        assert list(made) == []
    assert not threads()
