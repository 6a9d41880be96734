"""The manual: each command has a page, whose examples can be typed, and which fits the terminal."""

import re
import shlex
from typing import Any

import pytest
import typer
from support.command_tree import COMMANDS, ROOT, command_of

from fedsite.cli import manual
from fedsite.cli.commands import EVERYWHERE, gist
from fedsite.cli.manual import site
from fedsite.cli.manual.page import CODES, EVERY

EXAMPLES = [line for page in manual.PAGES.values() for line in page.examples] + list(site.FIRST_ROUND)
GLOBAL = {"--json": 1, "--quiet": 1, "--config": 2}
SITES = [name for name in COMMANDS if name.split()[0] not in ("server", "model")]


def typed(line: str) -> list[str]:
    """The words after `fedsite`, without a shell's own and without options of every command."""
    words = shlex.split(line.replace("\\\n", " ").partition(" > ")[0])
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    assert words.pop(0) == "fedsite"
    for option, count in GLOBAL.items():
        if option in words:
            del words[words.index(option) : words.index(option) + count]
    return words


def context_of(name: str) -> Any:
    """A command's context, as the door makes it."""
    command, context = ROOT, typer.Context(ROOT, info_name="fedsite", **ROOT.context_settings)
    for word in name.split():
        command = command.commands[word]
        context = typer.Context(command, parent=context, info_name=word)
    return context


def shown(name: str) -> str:
    context = context_of(name)
    return str(context.command.get_help(context))


def test_every_command_has_its_page_and_no_page_is_left_over() -> None:
    assert set(manual.PAGES) == set(COMMANDS)


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_can_be_typed(line: str) -> None:
    words = typed(line)
    own = command_of(words)
    COMMANDS[own].make_context(own, words[len(own.split()) :])  # raises what a person would be told


def test_the_codes_are_those_of_the_errors() -> None:
    from fedsite import errors

    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.FedsiteError)]
    assert set(CODES) == {0, 143} | {one.exit_code for one in classes}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_says_what_a_page_must_say(name: str) -> None:
    page = manual.PAGES[name]
    assert page.examples
    assert 0 in page.exits
    assert set(page.exits) <= set(CODES) - (set(EVERY) - {1})
    assert set(page.see) <= set(COMMANDS) - {name}
    if page.network and name in SITES:
        assert {69, 76} <= set(page.exits), "whoever asks the server may find nobody, or somebody else"
    if page.writes:
        assert {73, 74} & set(page.exits), "whoever writes may find the disk full"


@pytest.mark.parametrize("name", ["", "server", "server round", *COMMANDS])
def test_help_fits_the_terminal_and_calls_values_by_their_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = shown(name)
        assert max(map(len, text.splitlines())) < columns
    body = text.partition("\n")[2]
    assert not re.search(r"<\w+>|list\[|\.\.\.$|\{\w+\}", body, re.MULTILINE), "a type, a cut line"
    if name in COMMANDS:
        for part in ("Usage: ", EVERYWHERE, "Examples:", "Exit codes:"):
            assert part in text
        assert all(line in text for example in manual.PAGES[name].examples for line in example.splitlines())


def test_a_group_names_every_command_in_the_order_of_use() -> None:
    text = shown("")
    places = [text.index(f"\n  {name} ") for name in ROOT.commands]
    assert places == sorted(places)
    assert [*ROOT.commands][:2] == ["init", "enroll"]
    assert text.index("Set this site up:") < text.index("Take part:") < text.index("Run a federation")


def test_a_long_sentence_is_cut_at_its_first_colon() -> None:
    assert gist("Short: and whole.") == "Short: and whole"
    assert gist(f"The beginning: {'word ' * 20}. More.") == "The beginning"
