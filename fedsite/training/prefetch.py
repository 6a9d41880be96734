"""Reading patches while the device computes: one thread, a bounded queue, and an end in every case."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Made = TypeVar("Made")

DEPTH = 2


class _Producer(Generic[Made]):
    """Makes things in order in a thread of its own, at most DEPTH ahead of who takes them."""

    def __init__(self, make: Callable[[int], Made], numbers: range) -> None:
        self._make = make
        self._numbers = numbers
        self._made: queue.SimpleQueue[Made | BaseException] = queue.SimpleQueue()
        self._places = threading.Semaphore(DEPTH)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def taken(self) -> Iterator[Made]:
        """What is made, in order; what went wrong in making it is raised here."""
        for _ in self._numbers:
            made = self._made.get()
            if isinstance(made, BaseException):
                raise made
            # The place is free once the next one is asked for: what is in use counts as made ahead.
            yield made
            del made
            self._places.release()

    def stop(self) -> None:
        """Ends the thread, which finishes at most the one thing that it is making."""
        self._stopped = True
        self._places.release()
        self._thread.join()

    def _run(self) -> None:
        for number in self._numbers:
            self._places.acquire()
            if self._stopped:
                return
            try:
                self._made.put(self._make(number))
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                self._made.put(error)
                return


@contextmanager
def prefetched(make: Callable[[int], Made], numbers: range) -> Iterator[Iterator[Made]]:
    """`make(number)` of each number, in order, made ahead of time: at most DEPTH of them wait or are in use.

    What `make` raises is raised where its result would have come. When the block is left, however that happens, the
    thread has ended.
    """
    producer = _Producer(make, numbers)
    producer.start()
    try:
        yield producer.taken()
    finally:
        producer.stop()
