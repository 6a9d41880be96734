"""README says what the code does: its commands with their help, its exit codes, every command line in it."""

import importlib
import os
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from support.command_tree import COMMANDS, command_of
from support.command_tree import ROOT as ROOT_COMMAND

import fedsite
from fedsite import errors
from fedsite.errors import FedsiteError

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PROMISE = (
    "For each patient of this site (a patient as identified by PatientID and its issuer), over the lifetime of this"
    " ledger, everything that fedsite released is (epsilon, delta)-differentially private under adding or removing one"
    " patient, against the server, the other sites and whoever gets the model."
)


GLOBAL_OPTIONS = {option for one in ROOT_COMMAND.params for option in one.opts}


def command_table() -> str:
    """The table of README, as the code has it."""
    rows = ["| command | does |", "| --- | --- |"]
    for name, command in COMMANDS.items():
        help_text = " ".join(command.help.split("\n\n")[0].split())
        needed = [
            parameter.metavar or parameter.name.upper()
            for parameter in command.params
            if _is_needed_argument(parameter)
        ]
        rows.append(f"| `{' '.join(['fedsite', name, *needed])}` | {help_text} |")
    return "\n".join(rows)


def _is_needed_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument" and parameter.required


def code_lines(text: str) -> list[str]:
    """The lines of the code blocks."""
    return [
        line for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]


COMMAND_LINES = [found[1] for line in code_lines(README) if (found := re.search(r"(?:^|/)fedsite (.+)", line))]


def error_classes() -> set[type[FedsiteError]]:
    """Every error that fedsite can end with, wherever it is defined."""
    for module in pkgutil.walk_packages(fedsite.__path__, "fedsite."):
        if not module.name.startswith("fedsite.training") or module.name == "fedsite.training.devices":
            importlib.import_module(module.name)
    found, waiting = set(), [FedsiteError]
    while waiting:
        one = waiting.pop()
        found.add(one)
        waiting += one.__subclasses__()
    return {one for one in found - {FedsiteError} if one.__module__.startswith("fedsite.")}


def test_the_table_of_commands() -> None:
    found = re.search(r"<!-- commands: [^>]*-->\n(.*?)\n<!-- /commands -->", README, re.DOTALL)
    assert found is not None
    assert found[1].strip() == command_table(), "replace README's table by the one above"


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_can_be_typed(line: str) -> None:
    words = shlex.split(line, comments=True)
    known = {option for parameter in COMMANDS[command_of(words)].params for option in parameter.opts} | GLOBAL_OPTIONS
    assert {word for word in words if word.startswith("-")} <= known


def test_commands_that_are_named_exist() -> None:
    """`fedsite x y` in running text is a command, or the group of some."""
    for document in DOCUMENTS:
        for words in re.findall(r"`fedsite ([a-z][a-z -]*[a-z])[^`]*`", document.read_text()):
            name = re.split(r" -", words)[0]
            assert any(
                known == name or known.startswith(f"{name} ") or name.startswith(f"{known} ") for known in COMMANDS
            ), f"{document.name}: fedsite {words}"


def test_the_table_of_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \|([^|]*)\|", README, re.MULTILINE)
    table = {int(number): set(re.findall(r"`([a-z-]+)`", codes)) for number, codes in rows}
    expected: dict[int, set[str]] = {0: set(), 143: {errors.Interrupted.code}}
    for one in error_classes():
        expected.setdefault(one.exit_code, set()).add(one.code)
    assert table == expected
    assert [int(number) for number, _ in rows] == sorted(expected)


def test_the_promise_word_for_word() -> None:
    assert PROMISE in " ".join(README.replace("\n> ", "\n").split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_named_is_there(document: Path) -> None:
    text = document.read_text()
    links = set(re.findall(r"\]\(([^)#:]+)\)", text))
    files = set(
        re.findall(r"(?<![\w/.])(?:scripts|tests|sample_configs|fedsite|\.ci)/[A-Za-z0-9_./-]*[A-Za-z0-9_/]", text)
    )
    assert {name for name in links | files if not (ROOT / name).exists()} == set()
    scripts = {name for name in files if re.fullmatch(r"(scripts/[a-z_]+|\.ci/run)", name) and (ROOT / name).is_file()}
    assert {name for name in scripts if not os.access(ROOT / name, os.X_OK)} == set()


def test_the_first_commands_are_the_demo_and_the_tests() -> None:
    assert [line.split("#")[0].strip() for line in code_lines(README)[:2]] == ["scripts/demo", "scripts/test"]


def test_the_changelog_knows_this_version() -> None:
    assert f"## {fedsite.__version__}" in (ROOT / "CHANGELOG.md").read_text()
