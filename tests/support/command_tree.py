"""The commands as the installed fedsite has them."""

from typing import Any

import typer

from fedsite.cli.main import app


def commands(group: Any, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command that does something, by its full name, in the order of --help."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands(command, (*names, name)) if inner else {" ".join((*names, name)): command}
    return found


ROOT: Any = typer.main.get_command(app)
COMMANDS = commands(ROOT)


def command_of(words: list[str]) -> str:
    """The full name of the command that a line begins with."""
    return next(name for name in sorted(COMMANDS, key=len, reverse=True) if words[: len(name.split())] == name.split())
