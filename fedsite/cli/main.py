"""The door: registers the commands, hoists the global options, turns exceptions into exit codes."""

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli import (
    approve,
    audit,
    check,
    completion,
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
from fedsite.cli.commands import WIDEST, Commands, Group, show_help
from fedsite.cli.output import Output
from fedsite.cli.termination import Terminated, heeded
from fedsite.errors import FedsiteError, Interrupted, UsageError

if TYPE_CHECKING:  # as in `commands`
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter

FLAGS = ("--json", "--quiet", "--verbose", "--version")


class FedsiteGroup(Group):
    """Lets the global options stand before and after the command, by moving them to the front."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # typer puts groups behind commands; a person wants both in the order of their use.
        self.commands = {name: self.commands[name] for commands in SECTIONS.values() for name in commands}

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        """Called by typer with everything that follows `fedsite`."""
        return super().parse_args(ctx, hoist(args))

    def format_epilog(self, ctx: "Context", formatter: "HelpFormatter") -> None:  # noqa: ARG002 - typer passes it
        """What holds for all commands."""
        from fedsite.cli import manual

        manual.write_root(formatter)


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


app = Commands(
    "Takes a hospital's part in a federation: the model travels, the scans stay.",
    name="fedsite",
    cls=FedsiteGroup,
    add_completion=False,  # fedsite completion (its own, see there)
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    config_path: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The site's configuration file.")
    ] = None,
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
    if context.invoked_subcommand is None:
        show_help(context, as_json)


# In the order of their use; --help and README keep it.
SECTIONS: dict[str, dict[str, Any]] = {
    "Set this site up": {
        "init": init.init,
        "enroll": enroll.enroll,
        "identity": identity.app,
        "config": config.app,
        "completion": completion.completion,
    },
    "Prepare data": {
        "tasks": tasks.app,
        "inspect": inspect.inspect,
        "prepare-data": prepare_data.prepare_data,
        "data": data.app,
    },
    "Take part": {
        "check": check.check,
        "train-round": train_round.train_round,
        "approve": approve.approve,
        "schedule": schedule.app,
        "status": status.status,
        "report": report.report,
    },
    "Privacy and records": {"privacy": privacy.app, "audit": audit.app},
    "Use a model at home": {
        "evaluate": evaluate.evaluate,
        "predict": predict.predict,
        "personalize": personalize.personalize,
    },
    "Run a federation (the coordinator)": {"model": model.app, "server": server.app},
}
audit.app.command("tickets")(tickets.tickets)
for section, its_commands in SECTIONS.items():
    for command_name, command in its_commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=command_name, rich_help_panel=section)
        else:
            app.command(command_name, rich_help_panel=section)(command)


def main() -> None:
    """The installed command. Ends with one of cli.md's exit codes, never with a bare traceback."""
    # No foreign package gets to watch our messages being parsed; looking for such plugins costs time, too.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    args = sys.argv[1:]
    commands = typer.main.get_command(app)
    assert isinstance(commands, Group)
    if args[:1] == [completion.ASKED]:
        completion.answer(commands, args[1:])
        return
    name = _command_name(commands, args)
    output = Output(command=name, as_json="--json" in args, verbose="--verbose" in args)
    code = _run(commands, args, output)
    gc.freeze()  # the system takes the memory back: counting what torch's modules refer to first takes 0.7 s
    sys.exit(code)


def _run(commands: Group, args: list[str], output: Output) -> int:
    try:
        with heeded():
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
    except Terminated:
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


def _command_name(commands: Group, args: list[str]) -> str:
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
