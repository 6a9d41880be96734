"""Start-up is part of the product: what looks at a site imports nothing that computes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from example_site import make_site

PROBE = """
import json, sys
from fedsite.cli.main import main
given, listing, config = sys.argv[1:]
seen = {}
for command in json.loads(given):
    sys.argv[1:] = ["--config", config, *command.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, command
    seen[command] = [*sys.modules]
with open(listing, "w") as file:
    json.dump(seen, file)
"""
TRAINING = {"torch", "monai"}
COMPUTING = TRAINING | {"dp_accounting", "scipy", "nibabel", "pydicom", "fastapi"}
LOOKING = (
    "--version",
    "status",
    "schedule show",
    "identity show",
    "privacy show",
    "privacy history",
    "privacy history --calendar",
    "audit show",
    "audit verify",
    "tasks list",
    "tasks show stroke-dwi",
    "config show",
    "config validate",
)
ARITHMETIC = (
    "data list",
    "privacy export --out {}/ledger.json",
    "audit export {0}/audit.jsonl --report {0}/audit.html",
    "report --output {}/report.html",
    "privacy plan --mechanism gaussian-update --rounds 9 --epsilon 8",
)
HELP = ("--help", "status --help", "train-round --help", "privacy cost --help")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a site with prepared data and a ledger that is in use."""
    return make_site(tmp_path_factory.mktemp("site"), rounds=2, cases=3)


def modules_after(site: Path, tmp_path: Path, *commands: str) -> dict[str, set[str]]:
    """The top-level modules that each command leaves behind, one command after another in one new process."""
    listing = tmp_path / "modules"
    command_line = [sys.executable, "-c", PROBE, json.dumps(commands), str(listing), str(site)]
    result = subprocess.run(command_line, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    seen = json.loads(listing.read_text())
    return {command: {name.partition(".")[0] for name in modules} for command, modules in seen.items()}


def test_looking_computes_nothing(site: Path, tmp_path: Path) -> None:
    for command, modules in modules_after(site, tmp_path, *LOOKING).items():
        assert modules & COMPUTING == set(), command


def test_the_screen_takes_nothing_that_speaks_to_others(site: Path, tmp_path: Path) -> None:
    modules = modules_after(site, tmp_path, "status")["status"]
    assert modules & {"httpx", "jinja2", "smtplib", "socketserver"} == set()


def test_lists_and_arithmetic_need_no_torch(site: Path, tmp_path: Path) -> None:
    found = modules_after(site, tmp_path, *(command.format(tmp_path) for command in ARITHMETIC))
    for command, modules in found.items():
        assert modules & TRAINING == set(), command
    assert "scipy" in found[ARITHMETIC[-1]], "the probe sees what a command imports"


def test_help_opens_no_room(site: Path, tmp_path: Path) -> None:
    unneeded = COMPUTING | {"numpy", "cryptography", "httpx", "yaml", "platformdirs"}
    for command, modules in modules_after(site, tmp_path, *HELP).items():
        assert modules & unneeded == set(), command
