"""Questions to a person, which only a terminal can answer: a command that cron runs never waits for one."""

import sys

import typer

from fedsite.errors import UsageError


def somebody_is_there() -> bool:
    """Whether there is a terminal to show a question on, and one to answer it at."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(what: str) -> None:
    """Asks whether something that cannot be taken back is meant; --yes spares the question.

    Raises UsageError where nobody is there, typer.Abort on a no.
    """
    if not somebody_is_there():
        raise UsageError("--yes is needed: it is asked only on a terminal.", "This cannot be taken back.")
    typer.confirm(f"{what} This cannot be taken back.", abort=True, err=True)
