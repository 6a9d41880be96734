"""SIGTERM as an exception, so that every `with` and `finally` on the way out still runs; and one that no library loses.

What a signal's handler raises inside a library's own code may be dropped there: Python tells of it (`unraisablehook`),
and the library goes on, or takes what it was doing for a failure. So it is raised again a moment later, and a command
that fails meanwhile was stopped, whatever its error says. The same holds for Ctrl-C.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, get_ident
from types import FrameType

AGAIN_SECONDS = 0.1


class Terminated(BaseException):
    """The system stopped the run."""


STOPS: dict[type[BaseException], signal.Signals] = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}


@contextmanager
def heeded() -> Iterator[None]:
    """Within, SIGTERM raises Terminated; that, and KeyboardInterrupt, come through even where a library drops them."""
    lost: list[type[BaseException]] = []
    timers: list[Timer] = []
    usual, thread = sys.unraisablehook, get_ident()  # a signal to another thread would end no wait of this one

    def dropped(found: "sys.UnraisableHookArgs") -> None:
        if found.exc_type not in STOPS:
            usual(found)
            return
        lost.append(found.exc_type)
        timers.append(Timer(AGAIN_SECONDS, signal.pthread_kill, [thread, STOPS[found.exc_type]]))
        timers[-1].daemon = True
        timers[-1].start()

    before = signal.signal(signal.SIGTERM, _raise)
    sys.unraisablehook = dropped
    try:
        yield
    except Exception as error:
        if lost:
            raise lost[-1] from error
        raise
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = usual
        signal.signal(signal.SIGTERM, before)


def _raise(_signum: int, _frame: FrameType | None) -> None:
    raise Terminated
