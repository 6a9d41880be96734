"""How a job tells what it is at: its steps by name, and how far each of them is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Told how far a step is, and in a few words how it goes (a loss: for this site's eyes alone)."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """So many of so many are done."""
        ...


Steps = Callable[[str], AbstractContextManager[Progress]]
"""Opens a step by what it is called, and gives what is told how far it is."""


def silent(done: int, total: int, note: str = "") -> None:
    """Nobody is told."""


def silent_steps(_name: str) -> AbstractContextManager[Progress]:
    """Steps that nobody is told of."""
    return nullcontext(silent)
