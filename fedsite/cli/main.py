"""The door: registers the commands, hoists the global options, turns exceptions into exit codes."""

import gc
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedsite.cli import (
    approve,
    audit,
    check,
    config,
    data,
    enroll,
    evaluate,
    identity,
    init,
    inspect,
    model,
    personalize,
    predict,
    prepare_data,
    privacy,
    report,
    schedule,
    server,
    status,
    tasks,
    tickets,
    train_round,
)
from fedsite.cli.output import Output
from fedsite.errors import FedsiteError, Interrupted, UsageError

FLAGS = ("--json", "--quiet", "--verbose", "--version")


class FedsiteGroup(TyperGroup):
    """Lets the global options stand before and after the command, by moving them to the front."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer keeps its contexts' class to itself
        """Called by typer with everything that follows `fedsite`."""
        return super().parse_args(ctx, hoist(args))


def hoist(args: list[str]) -> list[str]:
    """Moves --config FILE, --json, --quiet and --verbose to the front; what follows `--` is left alone."""
    front, rest = [], []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in FLAGS or word.startswith("--config="):
            front.append(word)
        elif word == "--config":
            value = next(words, None)
            # Without a value it stays where it is, for typer to complain about; it must not swallow the command.
            if value is None:
                rest.append(word)
            else:
                front += [word, value]
        else:
            rest.append(word)
    return front + rest


app = typer.Typer(
    name="fedsite",
    cls=FedsiteGroup,
    help="Takes a hospital's part in a federation: the model travels, the scans stay.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich's renderer would double the time to the first line
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    config_path: Annotated[Path | None, typer.Option("--config", help="The site's configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more; tracebacks of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Takes a hospital's part in a federation: the model travels, the scans stay."""
    output = context.obj
    output.config_path, output.as_json = config_path, as_json
    output.quiet, output.verbose = quiet, verbose
    if version:
        from fedsite import __version__

        output.command = "version"
        output.result("done", {"version": __version__}, f"fedsite {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None and as_json:
        raise UsageError("A command is missing.", "fedsite --help lists the commands.")
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


app.command("init")(init.init)
app.command("enroll")(enroll.enroll)
app.add_typer(identity.app, name="identity")
app.command("check")(check.check)
app.command("inspect")(inspect.inspect)
app.command("prepare-data")(prepare_data.prepare_data)
app.add_typer(data.app, name="data")
app.command("train-round")(train_round.train_round)
app.command("approve")(approve.approve)
app.add_typer(schedule.app, name="schedule")
app.command("status")(status.status)
app.command("report")(report.report)
app.add_typer(privacy.app, name="privacy")
audit.app.command("tickets")(tickets.tickets)
app.add_typer(audit.app, name="audit")
app.add_typer(tasks.app, name="tasks")
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("personalize")(personalize.personalize)
app.add_typer(config.app, name="config")
app.add_typer(server.app, name="server")
app.add_typer(model.app, name="model")


def main() -> None:
    """The installed command. Ends with one of cli.md's exit codes, never with a bare traceback."""
    # No foreign package gets to watch our messages being parsed; looking for such plugins costs time, too.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    args = sys.argv[1:]
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    name = _command_name(commands, args)
    output = Output(command=name, as_json="--json" in args, verbose="--verbose" in args)
    signal.signal(signal.SIGTERM, _terminated)
    code = _run(commands, args, output)
    gc.freeze()  # the system takes the memory back: counting what torch's modules refer to first takes 0.7 s
    sys.exit(code)


def _run(commands: TyperGroup, args: list[str], output: Output) -> int:
    try:
        code = int(commands.main(args, obj=output, prog_name="fedsite", standalone_mode=False) or 0)
        if code == Interrupted.exit_code:
            raise KeyboardInterrupt  # typer turned it into a bare number; a person wants to read what happened
        return code
    except FedsiteError as error:
        output.error(error)
        return error.exit_code
    except typer.TyperException as error:
        output.error(UsageError(error.format_message(), f"See fedsite {output.command} --help.".replace("  ", " ")))
        return UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        output.error(Interrupted("Interrupted. What was done so far is kept; run the command again to go on."))
        return Interrupted.exit_code
    except _Terminated:
        output.error(Interrupted("Terminated. What was done so far is kept; run the command again to go on."))
        return 143
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw is reported as a bug, without its text
        output.error(_BugError(f"A bug in fedsite: {type(error).__name__}.", "Run again with --verbose and report it."))
        return _BugError.exit_code


class _BugError(FedsiteError):
    """Something that fedsite's authors did not foresee. Its text is withheld: it may hold an identifier."""

    code = "bug"
    exit_code = 1


class _Terminated(BaseException):
    """SIGTERM, raised in the main thread so that every `with` and `finally` on the way out still runs."""


def _terminated(_signum: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _command_name(commands: TyperGroup, args: list[str]) -> str:
    """The command as written in the JSON answer: `train-round`, `privacy show`, `server round open`."""
    names: list[str] = []
    known = commands.commands
    for word in hoist(args):
        if word in known:
            names.append(word)
            known = getattr(known[word], "commands", {})
        elif names:
            break
    return " ".join(names)


if __name__ == "__main__":
    main()
