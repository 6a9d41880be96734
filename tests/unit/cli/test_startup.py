"""Start-up is part of the product: what looks at a site imports nothing that computes."""

import subprocess
import sys
from pathlib import Path

import pytest
from example_site import make_site

PROBE = """
import sys
from fedsite.cli.main import main
listing = sys.argv.pop(1)
try:
    main()
finally:
    with open(listing, "w") as file:
        file.write("\\n".join(sys.modules))
"""
TRAINING = {"torch", "monai"}
COMPUTING = TRAINING | {"dp_accounting", "scipy", "nibabel", "pydicom", "fastapi"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a site with prepared data and a ledger that is in use."""
    return make_site(tmp_path_factory.mktemp("site"), rounds=2, cases=3)


def modules_of(site: Path, tmp_path: Path, command: str) -> set[str]:
    """The top-level modules that a command leaves behind in its process."""
    listing = tmp_path / "modules"
    command_line = [sys.executable, "-c", PROBE, str(listing), "--config", str(site), *command.split()]
    result = subprocess.run(command_line, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in listing.read_text().split()}


@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "status",
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
    ],
)
def test_looking_computes_nothing(site: Path, tmp_path: Path, command: str) -> None:
    assert modules_of(site, tmp_path, command) & COMPUTING == set()


def test_a_list_of_cases_needs_no_torch(site: Path, tmp_path: Path) -> None:
    assert modules_of(site, tmp_path, "data list") & TRAINING == set()


@pytest.mark.parametrize(
    "command",
    [
        "privacy plan --mechanism gaussian-update --rounds 9 --epsilon 8",
        "privacy export --out {}/ledger.json",
        "audit export {0}/audit.jsonl --report {0}/audit.html",
    ],
)
def test_arithmetic_needs_no_torch(site: Path, tmp_path: Path, command: str) -> None:
    assert modules_of(site, tmp_path, command.format(tmp_path)) & TRAINING == set()


@pytest.mark.parametrize("command", ["--help", "status --help", "train-round --help", "privacy cost --help"])
def test_help_opens_no_room(site: Path, tmp_path: Path, command: str) -> None:
    unneeded = COMPUTING | {"numpy", "cryptography", "httpx", "yaml", "platformdirs"}
    assert modules_of(site, tmp_path, command) & unneeded == set()


def test_the_probe_sees_what_a_command_imports(site: Path, tmp_path: Path) -> None:
    assert "dp_accounting" in modules_of(site, tmp_path, "privacy cost --noise-multiplier 1 --delta 1e-6")
