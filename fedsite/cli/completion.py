"""`fedsite completion`: scripts for shells, and the answers to what they ask.

A script asks `fedsite __complete WORD...`, the last word being the one under the cursor. The answer is `words`, `files`
or `folders` on the first line, then the words, each with a tab and what it is. Whatever goes wrong, nothing is said: an
error would land in the middle of what a person types. Nothing that is printed is ever evaluated by a shell.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from fedsite.cli.commands import gist
from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.server.federation import Federation

ASKED = "__complete"
FILES = {"FILE", "SOURCE", "STUDY", "CERTIFICATE"}  # and whatever has a suffix, such as PLAN.yaml
FOLDERS = {"DIR", "BACKUP", "TO"}
PLAIN = re.compile(r"[\w.,:=-]+", re.ASCII)
"""What is offered. A name of another kind, which a server may have chosen, could mean something to a shell."""

Offer = tuple[str, str]


def completion(
    context: typer.Context, shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL")]
) -> None:
    """Prints the script by which bash, zsh or fish completes fedsite's commands, options and names."""
    script = files("fedsite.cli").joinpath("completions", f"fedsite.{shell}").read_text("utf-8")
    Output.of(context).result("shown", {"shell": shell, "script": script}, script.rstrip("\n"))


def answer(root: TyperGroup, words: list[str]) -> None:
    """Prints what may stand in place of the last word."""
    kind: str = "words"
    offers: list[Offer] = []
    with suppress(Exception):
        kind, offers = _Line(root, words).offers()
    sys.stdout.write("\n".join([kind, *("\t".join(offer).rstrip() for offer in offers)]) + "\n")


class _Line:
    """What was typed so far: the command, its options, and where the cursor is."""

    def __init__(self, root: TyperGroup, words: list[str]) -> None:
        *before, self.current = words or [""]
        self.command: TyperCommand | TyperGroup = root
        self.root = root
        self.given: dict[str, str] = {}
        self.arguments = 0
        self.open_option: TyperOption | None = None  # an option whose value is being typed
        self.only_arguments = False
        rest = iter(before)
        for word in rest:
            self._take(word, rest)

    def _take(self, word: str, rest: Iterator[str]) -> None:
        if word == "--" and not self.only_arguments:
            self.only_arguments = True
        elif word.startswith("-") and not self.only_arguments:
            name, equals, value = word.partition("=")
            option = self._option(name)
            if option is not None and not option.is_flag and not equals:
                after = next(rest, None)
                self.open_option = option if after is None else None
                value = after or ""
            self.given[name] = value
        elif inner := self._commands().get(word):
            self.command = inner
        else:
            self.arguments += 1

    def offers(self) -> tuple[str, list[Offer]]:
        """What kind of thing is wanted, and the words that fit where it is one of some words."""
        name, equals, value = self.current.partition("=")
        if self.open_option is not None:
            return self._values(self.open_option, self.current)
        if self.current.startswith("--") and equals and not self.only_arguments:
            option = self._option(name)
            kind, found = self._values(option, value) if option is not None else ("words", [])
            return kind, [(f"{name}={word}", what) for word, what in found]
        if self.current.startswith("-") and not self.only_arguments:
            return "words", self._fitting(self._options())
        if isinstance(self.command, TyperGroup):
            inner = {} if self.arguments else self._commands()  # after an unknown command nothing is known
            return "words", self._fitting((name, gist(command.help or "")) for name, command in inner.items())
        arguments = [one for one in self.command.params if isinstance(one, TyperArgument)]
        return (
            self._values(arguments[self.arguments], self.current) if self.arguments < len(arguments) else ("words", [])
        )

    def _fitting(self, offers: Iterable[Offer], current: str | None = None) -> list[Offer]:
        begun = self.current if current is None else current
        return [(word, _in_a_line(what)) for word, what in offers if word.startswith(begun) and PLAIN.fullmatch(word)]

    def _commands(self) -> dict[str, TyperCommand | TyperGroup]:
        if not isinstance(self.command, TyperGroup):
            return {}
        inner = self.command.commands.items()
        return {name: one for name, one in inner if isinstance(one, TyperCommand | TyperGroup)}

    def _option(self, name: str) -> TyperOption | None:
        return next((one for one in self._every_option() if name in (*one.opts, *one.secondary_opts)), None)

    def _every_option(self) -> list[TyperOption]:
        commands = [self.command] if self.command is self.root else [self.command, self.root]
        return [one for command in commands for one in command.params if isinstance(one, TyperOption)]

    def _options(self) -> Iterator[Offer]:
        """The options that may still be given, long names alone."""
        for one in self._every_option():
            names = [*one.opts, *one.secondary_opts]
            if one.multiple or not set(names) & set(self.given):
                yield from ((name, _first_words(one.help)) for name in names if name.startswith("--"))
        yield "--help", "Show the page of the manual"

    def _values(self, parameter: TyperOption | TyperArgument, current: str) -> tuple[str, list[Offer]]:
        kind = parameter.metavar or ""
        if kind in FOLDERS:
            return "folders", []
        if kind in FILES or "." in kind:
            return "files", []
        if kind in NAMES:
            return "words", self._fitting(NAMES[kind](self.given), current)
        items = parameter.shell_complete(typer.Context(self.command), current)
        return "words", self._fitting(((str(item.value), item.help or "") for item in items), current)


def _in_a_line(text: str) -> str:
    """What stands beside a word may be anybody's too, such as the title of a task file: a new line would be a word."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _first_words(text: str | None) -> str:
    return gist(text or "").partition(" [")[0]


def _config(given: dict[str, str]) -> Path | None:
    return Path(given["--config"]) if "--config" in given else None


def _tasks(given: dict[str, str]) -> Iterator[Offer]:
    from fedsite.jobs.tasks import known
    from fedsite.tasks import registry

    with suppress(Exception):  # where the site's own are not as they should be, the others still are
        known(_config(given))
    for name in registry.names():
        yield name, registry.get(name).title


def _layouts(given: dict[str, str]) -> Iterator[Offer]:
    from fedsite.tasks import registry

    list(_tasks(given))
    chosen = [given["--task"]] if "--task" in given else registry.names()
    names = {layout.name for task in chosen for layout in registry.get(task).layouts}
    yield from ((name, "") for name in sorted(names))


def _keys(_given: dict[str, str]) -> Iterator[Offer]:
    from fedsite.site.config import SiteConfig, known_keys

    yield from ((key, "") for key in known_keys(SiteConfig))


def _prepared(given: dict[str, str]) -> Iterator[Offer]:
    from fedsite.dataset import manifest
    from fedsite.site import config

    folder = Path(given["--data"]) if "--data" in given else config.load(_config(given)).paths.data
    found = manifest.load(folder)
    studies = [(one.id, one.patient) for one in found.cases] + [(one.id, one.patient) for one in found.excluded]
    yield from ((study, f"study of {patient}") for study, patient in studies)
    yield from ((patient, "patient") for patient in dict.fromkeys(patient for _, patient in studies))


def _sites(given: dict[str, str]) -> Iterator[Offer]:
    from fedsite.server.members.enrolment import standings

    yield from ((one.site, one.status) for one in standings(_federation(given)))


def _rounds(given: dict[str, str]) -> Iterator[Offer]:
    from fedsite.server.rounds.reports import rounds

    yield from ((str(one["round"]), f"{one['plan']}, {one['status']}") for one in rounds(_federation(given)))


def _federation(given: dict[str, str]) -> "Federation":
    """The federation of --dir, whose database is a file: one elsewhere would be a question to the network."""
    from fedsite.server.federation import DATABASE, open_federation

    folder = Path(given.get("--dir", "."))
    (folder / DATABASE).stat()
    return open_federation(folder)


def _faults(_given: dict[str, str]) -> Iterator[Offer]:
    yield from (("tilt", "tilted gantry"), ("uneven", "uneven spacing"), ("tilt,uneven", "both"))


NAMES: dict[str, Callable[[dict[str, str]], Iterator[Offer]]] = {
    "TASK": _tasks,
    "LAYOUT": _layouts,
    "KEY": _keys,
    "ID": _prepared,
    "SITE": _sites,
    "ROUND": _rounds,
    "FAULTS": _faults,
}
"""Who knows the values of an argument or option, by what help calls them."""
