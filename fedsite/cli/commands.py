"""What every command and every group of commands is made of: its usage, its options, its page of the manual.

A value is called by what it is (FILE, DURATION, TASK ...): help shows that name, and completion goes by it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from fedsite.errors import UsageError

if TYPE_CHECKING:  # typer's own classes, by which it calls ours; at run time nothing depends on where it keeps them
    from typer._click.core import Context, Parameter
    from typer._click.formatting import HelpFormatter

Function = TypeVar("Function", bound=Callable[..., Any])

LONGEST_GIST = 80
WIDEST = 100  # columns; lines that are longer are hard to read
EVERYWHERE = "--config FILE, --json, --quiet, --verbose: see fedsite --help."


class Command(TyperCommand):
    """A command whose --help is a page of the manual (`fedsite.cli.manual`)."""

    def collect_usage_pieces(self, ctx: "Context") -> list[str]:
        """`[OPTIONS] SOURCE [FILE]`."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(_called(one) if one.required else f"[{_called(one)}]" for one in arguments)]

    def format_help_text(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """What it does, in a sentence, then whatever else there is to say."""
        from fedsite.cli import manual

        super().format_help_text(ctx, formatter)
        if about := manual.page(ctx.command_path).about:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(about)

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Arguments and options, by the names of their values."""
        _write_parameters(self, ctx, formatter)
        with formatter.section("As with every command"):
            formatter.write_text(EVERYWHERE)

    def format_epilog(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Examples, files, exit codes, and what to read next."""
        from fedsite.cli import manual

        manual.write(manual.page(ctx.command_path), formatter)


class Group(TyperGroup):
    """Commands that belong together. Called without one of them it shows its help."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        """Called by typer with what follows the group's name. Raises UsageError where a program forgot the command."""
        if not args and ctx.parent is not None:
            show_help(ctx, ctx.find_root().obj.as_json)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Options, then the commands."""
        _write_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:  # noqa: ARG002 - typer passes it
        """The commands in the order of their use, each with the first part of its sentence, under what they are for."""
        sections: dict[str, list[tuple[str, str]]] = {}
        widest = max(map(len, self.commands))
        for name, command in self.commands.items():
            title = getattr(command, "rich_help_panel", None) or "Commands"
            sections.setdefault(title, []).append((f"{name:<{widest}}", gist(command.help or "")))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Commands(typer.Typer):
    """A group of commands, all of them with a page of the manual."""

    def __init__(self, text: str, **options: Any) -> None:
        # Plain help: rich's renderer would double the time to the first line.
        super().__init__(**{"help": text, "cls": Group, "rich_markup_mode": None, **options})

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """As typer's."""
        return super().command(name, cls=Command, **options)


def show_help(ctx: "Context", as_json: bool) -> None:
    """What a group without a command answers: its help to a person, UsageError to a program. Ends the command."""
    if as_json:
        raise UsageError("A command is missing.", f"{ctx.command_path} --help lists the commands.")
    typer.echo(ctx.get_help())
    raise typer.Exit


def gist(text: str) -> str:
    """A sentence for a list: whole where it is short, else what stands before its first colon or semicolon."""
    sentence = " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    if len(sentence) <= LONGEST_GIST:
        return sentence
    return sentence.partition(": ")[0].partition("; ")[0]


def _called(parameter: "Parameter") -> str:
    return str(parameter.metavar or parameter.name.upper())


def _write_parameters(command: "TyperCommand | TyperGroup", ctx: "Context", formatter: "HelpFormatter") -> None:
    arguments, options = [], []
    for one in command.get_params(ctx):
        record = one.get_help_record(ctx)
        if record is None:
            continue
        if one.param_type_name == "argument":
            arguments.append((_called(one), record[1]))
        else:
            options.append((record[0].replace("<", "").replace(">", ""), record[1]))
    for title, rows in (("Arguments", arguments), ("Options", options)):
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)
