"""Running the installed `fedsite` command the way an operator does, and a server process beside it."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsite.files import write_atomically

EXECUTABLE = Path(sys.executable).with_name("fedsite")
LONGEST_STEP_SECONDS = 600
SERVER_START_SECONDS = 60
SERVER_STOP_SECONDS = 15


class StepFailed(Exception):
    """A step did not do what the story needs; the text shows the command and all that it said."""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Fedsite:
    """The installed command in the hands of one person: who they are, where they work, what options they always give.

    Paths may be absolute; `shown` spells them as seen from `folder`.
    """

    who: str
    folder: Path
    options: tuple[str, ...] = ()

    def run(self, *arguments: str, text: str = "") -> Answer:
        """Runs the command to its end, `text` on its stdin. Raises StepFailed when it does not end."""
        started = time.monotonic()
        try:
            done = subprocess.run(
                [str(EXECUTABLE), *arguments, *self.options],
                input=text,
                capture_output=True,
                text=True,
                env=environment(),
                cwd=self.folder,
                timeout=LONGEST_STEP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"{self.shown(*arguments)}\n  did not end within {error.timeout:.0f} seconds") from None
        return Answer(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def json(self, *arguments: str, text: str = "") -> dict[str, Any]:
        """Runs the command with --json; gives its answer's `data`, with `outcome` added.

        Raises StepFailed unless it ended with 0.
        """
        answer = self.run(*arguments, "--json", text=text)
        if answer.exit_code != 0:
            raise StepFailed(
                f"{self.shown(*arguments)}\n  ended with exit code {answer.exit_code}\n{answer.stderr}{answer.stdout}"
            )
        told = json.loads(answer.stdout)
        return {**told["data"], "outcome": told["outcome"]}

    def shown(self, *arguments: str) -> str:
        """The command as the person would type it."""
        return f"{self.who}$ {shlex.join(['fedsite', *arguments, *self.options])}".replace(f"{self.folder}/", "")


def environment() -> dict[str, str]:
    """The caller's environment without a real site's settings, and one thread a process: many run side by side."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDSITE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


def set_key(config: Path, key: str, value: object) -> None:
    """Sets one key of site.yaml as an editor would: its comment stays. Raises StepFailed when it is not there once."""
    text = config.read_text()
    written = json.dumps(value)
    text, found = re.subn(rf"(?m)^(\s+{key}:)[^#\n]*", lambda match: f"{match[1]} {written}  ", text)
    if found != 1:
        raise StepFailed(f"{config} has {found} lines for {key}")
    write_atomically(config, text.encode(), mode=0o600)


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_server(folder: Path, port: int, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A real server process while the block runs; its output goes to `log`. It is stopped however the block ends.

    Raises StepFailed, with the end of the log, when it does not come up.
    """
    command = [str(EXECUTABLE), "server", "run", "--dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment())
    try:
        _wait_until_it_listens(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SERVER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise StepFailed(f"the server did not come up:\n{log.read_text()[-4000:]}")
