"""Waits that end, whatever is waited for: a keyring that asks a person, a name server that does not answer."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, act: Callable[[], Result]) -> Result:
    """What `act` gives or raises. Raises TimeoutError once the seconds are over; `act` is left to itself then."""
    future: Future[Result] = Future()

    def do() -> None:
        try:
            future.set_result(act())
        except Exception as error:  # noqa: BLE001 - whatever it raises is raised by whoever waits
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future.result(seconds)
