"""What a command says, and where: results on stdout, everything for people on stderr.

With --json stdout holds exactly one JSON object (cli.md's envelope), whatever happens. Progress is drawn only
where stderr is a terminal.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from fedsite.errors import FedsiteError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from fedsite.jobs.progress import Progress

ERROR, WARNING, INFORMATION = 3, 4, 6  # priorities of the journal (sd-daemon(3))


@dataclass
class Output:
    """The two streams of one command, and the global options that shape them."""

    command: str = ""
    config_path: Path | None = None
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    @staticmethod
    def of(context: typer.Context) -> "Output":
        """The output of the command that is running."""
        output = context.find_root().obj
        assert isinstance(output, Output)
        return output

    @property
    def stderr(self) -> "Console":
        """The console for people."""
        return _console(sys.stderr)

    def result(
        self, outcome: str, data: dict[str, Any] | None = None, human: "str | Callable[[Console], None]" = ""
    ) -> None:
        """Says how the command ended: one JSON object, or the text for people, or what `human` draws with rich.

        --quiet leaves out what is for people. Plain text needs no rich, which takes its time to import.
        """
        if self.as_json:
            self._print_json(outcome, data or {}, None)
        elif self.quiet or not human:
            return
        elif isinstance(human, str):
            _write(human + "\n")
        else:
            try:
                human(_console(sys.stdout))
            except SystemExit:  # rich's own answer to a reader that has seen enough
                return

    def note(self, text: str) -> None:
        """Something worth knowing, for people."""
        if not self.quiet:
            self._say(text, INFORMATION)

    def warn(self, text: str) -> None:
        """Something that wants attention, for people; --quiet does not hide it."""
        self._say(f"Warning: {text}", WARNING, "yellow")

    def error(self, error: FedsiteError) -> None:
        """The few lines of an error: what and where, since when, then the mend. A traceback only with --verbose.

        --quiet says nothing of what an ordinary night brings: another run is at work, or it is not the hour.
        """
        if self.as_json:
            body = {"code": error.code, "message": error.message, "mend": error.mend}
            self._print_json(error.outcome, error.data, body)
        if self.quiet and error.expected:
            return
        if self.verbose:
            # A bug is reported under another name; its frames are those of what is being handled.
            self._say(_frames(sys.exception() or error), ERROR)
        self._say(f"Error: {error.message}", ERROR, "red")
        for line in (*getattr(error, "__notes__", ()), error.mend):
            if line:
                self._say(line, ERROR)

    def _say(self, text: str, priority: int, style: str = "") -> None:
        """To people; to the journal each line with its priority, by which it can be asked for failures."""
        if _is_journal(sys.stderr):
            sys.stderr.write("".join(f"<{priority}>{line}\n" for line in text.splitlines()))
        else:
            self.stderr.print(text, style=style or None, markup=False)

    @contextmanager
    def step(self, description: str) -> "Iterator[Progress]":
        """A step that may take a while: gives the callback (done, total, note) that moves its bar."""
        if self.quiet or not sys.stderr.isatty():
            from fedsite.jobs.progress import silent

            yield silent
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bar(*columns, console=self.stderr, transient=True) as bar:
            task = bar.add_task(description, total=None, note="")

            def move(done: int, total: int, note: str = "") -> None:
                bar.update(task, completed=done, total=total, note=note)

            yield move

    def _print_json(self, outcome: str, data: dict[str, Any], error: dict[str, str] | None) -> None:
        envelope = {"schema": 1, "command": self.command, "outcome": outcome, "data": data, "error": error}
        _write(json.dumps(envelope, allow_nan=False, default=str) + "\n")


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd has connected this very stream to its journal (systemd.exec(5), $JOURNAL_STREAM)."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(stream.fileno()) if named else None
    except (OSError, ValueError):  # no file at all
        return False
    return status is not None and named == f"{status.st_dev}:{status.st_ino}"


def _write(text: str) -> None:
    """Writes to stdout. A reader that has seen enough (`| head`) is no error: the rest goes nowhere."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would break the interpreter's own last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _frames(error: BaseException) -> str:
    """Where an error came from, without the exceptions' texts: those may hold a path or a name (law 8)."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [f"{type(cause).__module__}.{type(cause).__qualname__} at", *traceback.format_tb(cause.__traceback__)]
        cause = cause.__cause__ or cause.__context__
    return "\n".join(line.rstrip() for line in lines)


def duration(text: str) -> float:
    """Seconds in `90`, `90s`, `10m`, `24h` or `7d`. Raises UsageError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not (number.isdecimal() and len(number) <= 9):
        raise UsageError(f"{text!r} is no duration.", "Write a number and s, m, h or d, such as 24h.")
    return int(number) * units[unit]


def _console(stream: TextIO) -> "Console":
    """For people; rich honours NO_COLOR and drops colours where there is no terminal.

    No emoji: rich would make one of the `:AB:` in a fingerprint, which people compare.
    """
    from rich.console import Console

    return Console(file=stream, highlight=False, emoji=False, soft_wrap=not stream.isatty())
