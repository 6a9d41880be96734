"""The arrows of the house hold, and a forbidden import is noticed: each contract is broken once, by hand."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

# contract -> (module, the line that breaks it)
FORBIDDEN = [
    ("layers", "jobs/site.py", "import fedsite.cli.output"),
    ("layers", "server/rounds/rounds.py", "import fedsite.jobs.site"),
    ("layers", "training/loop.py", "import fedsite.privacy.ledger"),
    ("layers", "wire/client.py", "import fedsite.privacy.ledger"),
    ("layers", "site/state.py", "import fedsite.wire.messages"),
    ("layers", "dicom/scan.py", "import fedsite.tasks.registry"),
    ("layers", "errors.py", "import fedsite.files"),
    ("dicom", "dicom/header/frames.py", "import fedsite.dicom.volume.series"),
    ("jobs", "jobs/plan/charging.py", "import fedsite.jobs.round.state_machine"),
    ("jobs", "jobs/training/worker.py", "import fedsite.jobs.round.egress"),
    ("jobs", "jobs/audit/tickets.py", "import fedsite.jobs.identity.renew"),
    ("jobs", "jobs/site.py", "import fedsite.jobs.identity.enroll"),
    ("jobs", "jobs/round/participate.py", "import fedsite.jobs.unattended.watch"),
    ("server-rooms", "server/store/database.py", "import fedsite.server.federation"),
    ("server-rooms", "server/members/enrolment.py", "import fedsite.server.exchange.uploads"),
    ("server-rooms", "server/rounds/rounds.py", "import fedsite.server.web.app"),
    ("server-rooms", "server/exchange/uploads.py", "import fedsite.server.keeping.backups"),
    ("dataset", "dataset/prepare.py", "import fedsite.site.config"),
    ("training", "training/sampling.py", "import fedsite.site.state"),
    ("privacy", "privacy/mechanism.py", "import fedsite.site.identity"),
    ("wire", "wire/client.py", "import fedsite.site.identity"),
    ("server", "server/rounds/aggregation.py", "import fedsite.privacy.mechanism"),
    ("no-torch", "privacy/mechanism.py", "import torch"),
    ("no-torch", "dicom/voxels/reading.py", "import monai.transforms"),
    ("no-torch", "files.py", "def load():\n    import torch"),
    ("no-torch-in-cli", "cli/status.py", "import torch"),
    ("terminal", "jobs/round/state_machine.py", "import rich"),
    ("http-client", "jobs/checks/preflight.py", "import httpx"),
    ("http-server", "wire/messages.py", "import fastapi"),
    ("dicom-library", "dataset/studies.py", "import pydicom"),
    ("keyrings", "jobs/identity/enroll.py", "import keyring"),
    ("accounting", "jobs/status.py", "import dp_accounting"),
]


NEW_ROOM = "cellar"


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each contract, by its id, about a copy of the house in which all of them are broken at once."""
    copy = tmp_path_factory.mktemp("broken")
    shutil.copytree(ROOT / "fedsite", copy / "fedsite", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for _, module, line in FORBIDDEN:
        path = copy / "fedsite" / module
        path.write_text(f"{path.read_text()}\n\n{line}\n")
    (copy / "fedsite" / NEW_ROOM).mkdir()
    (copy / "fedsite" / NEW_ROOM / "__init__.py").touch()
    result = lint(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Contracts: 0 kept" in result.stdout
    said = re.split(r"\n(?=.+\n-{3,}\n)", result.stdout.partition("Broken contracts")[2])
    by_name = {heading: text for heading, _, text in (part.partition("\n") for part in said)}
    return {contract["id"]: by_name[contract["name"]] for contract in CONTRACTS}


def test_every_contract_is_kept() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


def test_every_contract_is_broken_below() -> None:
    assert {contract["id"] for contract in CONTRACTS} == {contract for contract, _, _ in FORBIDDEN}


@pytest.mark.parametrize(("contract", "module", "line"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(
    complaints: dict[str, str], contract: str, module: str, line: str
) -> None:
    importer = ".".join(Path("fedsite", module).with_suffix("").parts)
    imported = line.rpartition("import ")[2]
    if not imported.startswith("fedsite"):
        imported = imported.partition(".")[0]  # of other people's packages the contracts know no more
    assert f" {importer} -> {imported} (l." in complaints[contract]


def test_a_new_room_must_be_placed(complaints: dict[str, str]) -> None:
    assert f"- fedsite.{NEW_ROOM}\n" in complaints["layers"]
