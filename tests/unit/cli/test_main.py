"""The contract of the command line: exit codes, one JSON object, global options anywhere, no text of a bug."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fedsite import errors
from fedsite.cli import main as door
from fedsite.errors import FedsiteError, Interrupted

FEDSITE = str(Path(sys.executable).with_name("fedsite"))
NAME = "MUELLER^HANS^^^ 1944-02-30"
CLASSES = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, FedsiteError) and one not in (FedsiteError, Interrupted)
]


class Command:
    """Runs `fedsite ARGS` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd
        self.code, self.stdout, self.stderr = 0, "", ""

    def __call__(self, *args: str) -> "Command":
        self._monkeypatch.setattr(sys, "argv", ["fedsite", *args])
        with pytest.raises(SystemExit) as ended:
            door.main()
        self.code = int(ended.value.code or 0)
        self.stdout, self.stderr = self._capfd.readouterr()
        return self

    @property
    def json(self) -> dict[str, Any]:
        assert self.stdout.count("\n") == 1, f"more than one line: {self.stdout!r}"
        envelope: dict[str, Any] = json.loads(self.stdout)
        assert list(envelope) == ["schema", "command", "outcome", "data", "error"]
        assert envelope["schema"] == 1
        return envelope


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Command]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("FEDSITE_CONFIG", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield Command(monkeypatch, capfd)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `fedsite status` raise."""

    def make(error: BaseException) -> None:
        from fedsite.jobs import status as job

        def fails(_: object) -> None:
            raise error

        monkeypatch.setattr(job, "status", fails)

    return make


@pytest.fixture
def site(tmp_path: Path, command: Command) -> Path:
    """A site.yaml of an initialised site."""
    path = tmp_path / "site.yaml"
    folders = ("--state", str(tmp_path / "state"), "--data", str(tmp_path / "data"))
    command("init", *folders, "--epsilon", "8", "--delta", "1e-6", "--nominal-patients", "9", "--config", str(path))
    assert command.code == 0, command.stderr
    return path


# --- one JSON object ------------------------------------------------------------------------------------------------


def test_success_is_one_json_object(command: Command, site: Path) -> None:
    command("status", "--config", str(site), "--json")
    assert command.code == 0
    assert (command.json["command"], command.json["error"]) == ("status", None)
    assert command.json["data"]["privacy"]["releases"] == 0
    assert command.stderr == ""


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["no-such-command"], ""),
        (["status", "--no-such-option"], "status"),
        (["status", "surplus"], "status"),
        (["privacy", "no-such-command"], "privacy"),
        (["privacy", "cost", "--noise-multiplier", "text"], "privacy cost"),
        (["privacy", "cost"], "privacy cost"),
        (["status", "--config"], "status"),
        (["config", "explain", "no.such.key"], "config explain"),
    ],
)
def test_a_usage_error_is_one_json_object_and_2(command: Command, args: list[str], name: str) -> None:
    command("--json", *args)
    assert command.code == 2
    assert command.json["command"] == name
    assert command.json["outcome"] == "failed"
    assert command.json["error"]["code"] == "usage"
    assert command.json["error"]["message"]
    assert "Error:" in command.stderr
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_one_json_object_and_its_own_exit_code(
    command: Command, failing: Callable[[BaseException], None], kind: type[FedsiteError]
) -> None:
    failing(kind("What and where.", "The mend."))
    command("status", "--json")
    assert command.code == kind.exit_code != 0
    assert command.json["error"] == {"code": kind.code, "message": "What and where.", "mend": "The mend."}
    outcome = {75: "pending", 80: "refused", 81: "refused"}.get(kind.exit_code, "failed")
    assert command.json["outcome"] == outcome
    command("status")
    assert command.code == kind.exit_code
    assert command.stdout == ""
    assert command.stderr == "Error: What and where.\nThe mend.\n"


def test_the_exit_codes_are_those_of_cli_md() -> None:
    """A new class needs a line here, in cli.md and in README: schedulers act on these numbers."""
    fixed = {
        "UsageError": 2,
        "DataNotFit": 65,
        "SourceMissing": 66,
        "Unreachable": 69,
        "CannotWrite": 73,
        "RecordsDamaged": 74,
        "TryAgainLater": 75,
        "ServerBrokeProtocol": 76,
        "NotAuthorised": 77,
        "ConfigurationError": 78,
        "PolicyRefused": 80,
        "BudgetSpent": 81,
    }
    found = {kind.__name__: kind.exit_code for kind in CLASSES}
    assert fixed.items() <= found.items()
    assert set(found.values()) == set(fixed.values())
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)


# --- bugs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError(NAME), KeyError(NAME), OSError(5, "x", NAME), RecursionError(NAME)])
@pytest.mark.parametrize("flags", [[], ["--json"], ["--verbose"], ["--verbose", "--json"]])
def test_a_bug_is_1_and_its_text_is_withheld(
    command: Command, failing: Callable[[BaseException], None], error: Exception, flags: list[str]
) -> None:
    failing(error)
    command("status", *flags)
    assert command.code == 1
    assert "MUELLER" not in command.stdout + command.stderr
    assert type(error).__name__ in command.stderr
    if "--json" in flags:
        assert command.json["error"]["code"] == "bug"
    # With --verbose the place is shown, or nobody could mend it.
    assert ("test_main.py" in command.stderr) == ("--verbose" in flags)


def test_a_traceback_shows_the_way_but_no_text(command: Command, failing: Callable[[BaseException], None]) -> None:
    try:
        try:
            raise LookupError(NAME)
        except LookupError as cause:
            raise errors.DataNotFit("A case is not whole.", "Prepare it again.") from cause
    except errors.DataNotFit as error:
        failing(error)
    command("status", "--verbose")
    assert command.code == 65
    assert "LookupError at" in command.stderr
    assert "fedsite.errors.DataNotFit at" in command.stderr
    assert "MUELLER" not in command.stderr
    assert "A case is not whole." in command.stderr
    command("status")
    assert "LookupError" not in command.stderr


# --- global options, suggestions, help -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--config", "{site}", "--json", "privacy", "show"],
        ["privacy", "--json", "--config", "{site}", "show"],
        ["privacy", "show", "--json", "--config={site}"],
        ["--json", "privacy", "show", "--config", "{site}", "--verbose"],
    ],
)
def test_global_options_stand_anywhere(command: Command, site: Path, args: list[str]) -> None:
    command(*(arg.format(site=site) for arg in args))
    assert command.code == 0, command.stderr
    assert command.json["command"] == "privacy show"
    assert command.json["data"]["budget"] == 8


def test_what_follows_two_dashes_is_no_option() -> None:
    assert door.hoist(["inspect", "--json", "--", "--quiet", "--config"]) == [
        "--json", "inspect", "--", "--quiet", "--config"
    ]  # fmt: skip


def test_an_almost_right_command_is_suggested(command: Command) -> None:
    command("statis")
    assert command.code == 2
    assert "status" in command.stderr
    command("privacy", "histroy")
    assert command.code == 2
    assert "history" in command.stderr


def test_version_and_help(command: Command) -> None:
    from fedsite import __version__

    assert command("--version").stdout == f"fedsite {__version__}\n"
    assert command("--version", "--json").json["data"] == {"version": __version__}
    for args in (["--help"], ["-h"], ["privacy", "--help"], ["train-round", "--help"]):
        assert command(*args).code == 0
        assert "Usage: fedsite" in command.stdout


@pytest.mark.parametrize("group", ["data", "config", "server round"])
def test_a_group_without_a_command_shows_its_help(command: Command, group: str) -> None:
    command(*group.split())
    assert (command.code, command.stderr) == (0, "")
    assert f"Usage: fedsite {group} [OPTIONS] COMMAND" in command.stdout
    command("--json", *group.split())
    assert (command.code, command.json["error"]["mend"]) == (2, f"fedsite {group} --help lists the commands.")


def test_quiet_hides_results_but_not_errors(command: Command, site: Path) -> None:
    command("status", "--config", str(site), "--quiet")
    assert (command.code, command.stdout, command.stderr) == (0, "", "")
    command("status", "--config", str(site.with_name("absent.yaml")), "--quiet")
    assert command.code == 78
    assert "absent.yaml" in command.stderr
    assert command("status", "--config", str(site), "--quiet", "--json").json["outcome"]


# --- interruption ---------------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_130(command: Command, failing: Callable[[BaseException], None]) -> None:
    for stop in (KeyboardInterrupt(), typer.Abort()):
        failing(stop)
        command("status", "--json")
        assert command.code == 130
        assert command.json["error"]["code"] == "interrupted"


SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs these tests in the background has it ignored
from fedsite.cli import main as door
from fedsite.jobs import status
def sleep(_):
    try:
        print("asleep", file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", file=sys.stderr, flush=True)
status.status = sleep
sys.argv = ["fedsite", "status", "--json"]
door.main()
"""


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
    ],
)
def test_signals_end_a_run_cleanly(sent: signal.Signals, code: int) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SLEEPER], text=True, **pipes) as process:
        try:
            assert process.stderr.readline() == "asleep\n"
            process.send_signal(sent)
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code
    assert "cleaned up" in stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout)["error"]["code"] == "interrupted"


@pytest.mark.parametrize("args", [["config", "schema"], ["config", "schema", "--json"], ["--version"]])
def test_a_closed_pipe_is_no_bug(args: list[str]) -> None:
    """`fedsite config schema | head -0`"""
    process = subprocess.Popen([FEDSITE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert stderr == ""


# --- terminals ------------------------------------------------------------------------------------------------------

DRAWS = """
import sys
from fedsite.cli.output import Output
out = Output(quiet="quiet" in sys.argv)
with out.step("Reading headers") as progress:
    for number in range(3):
        progress(number + 1, 3, "loss 0.25")
out.warn("look here")
"""


def on_terminal(*args: str, **environment: str) -> str:
    """What a program draws on a stderr that is a terminal."""
    ours, theirs = pty.openpty()
    base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-c", DRAWS, *args]
    done = subprocess.run(
        command, stderr=theirs, stdout=subprocess.PIPE, env=base | {"TERM": "xterm-256color"} | environment, check=True
    )
    os.close(theirs)
    drawn = b""
    try:
        while part := os.read(ours, 65536):
            drawn += part
    except OSError:
        pass  # a terminal whose other end is closed
    os.close(ours)
    assert done.stdout == b""
    return drawn.decode()


def test_progress_is_drawn_on_a_terminal_alone() -> None:
    drawn = on_terminal()
    assert "Reading headers" in drawn
    assert "loss 0.25" in drawn
    assert "Reading headers" not in on_terminal("quiet")
    piped = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, text=True, check=True)
    assert piped.stderr == "Warning: look here\n"


def test_no_color_is_honoured() -> None:
    assert "\x1b[33m" in on_terminal("quiet")
    assert "\x1b[33m" not in on_terminal("quiet", NO_COLOR="1")
