"""The air-gapped way: a bundle is complete, its sums notice one changed byte, and it installs without any index."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.exhaustive


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """As on a machine without an index: whatever configures pip here is out of sight."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "wheelhouse"
    command = [ROOT / "scripts" / "bundle", "--extras", "server", "--out", out]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    return out


@pytest.fixture(scope="module")
def environment(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment, filled by the very commands of install.txt."""
    target = tmp_path_factory.mktemp("air-gapped") / "fedsite"
    commands = re.findall(r"^ {4}(.+)$", (bundle / "install.txt").read_text(), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = command.replace("/opt/fedsite", str(target)).split()
        if words[0].startswith("python"):
            words[0] = sys.executable
        if "install" in words:
            words.append("--no-compile")  # spares the test a minute
        result = run(words, bundle)
        assert (result.returncode, result.stdout if "sha256sum" in command else "") == (0, ""), result.stderr
    return target / "bin"


def test_it_runs_where_it_was_installed(environment: Path, tmp_path: Path) -> None:
    answer = run([environment / "fedsite", "--version"], tmp_path)
    assert answer.stdout == f"fedsite {version('fedsite')}\n"


def test_it_holds_the_locked_versions(environment: Path, tmp_path: Path) -> None:
    locked = set((ROOT / "constraints.txt").read_text().splitlines())
    listed = run([environment / "python", "-m", "pip", "list", "--format", "freeze"], tmp_path).stdout
    installed = {re.sub(r"\+\w+$", "", line) for line in listed.splitlines()}
    unlocked = {line for line in installed - locked if not re.match(r"(fedsite|pip|setuptools|nvidia-|triton)", line)}
    assert unlocked == set()


def test_a_changed_byte_is_noticed(bundle: Path, tmp_path: Path) -> None:
    carried = tmp_path / "carried"
    wheel = min(bundle.glob("*.whl"), key=lambda path: path.stat().st_size).name
    carried.mkdir()
    for name in (wheel, "SHA256SUMS", "requirements.txt"):
        shutil.copy(bundle / name, carried)
    content = bytearray((carried / wheel).read_bytes())
    content[len(content) // 2] ^= 1
    (carried / wheel).write_bytes(content)

    summed = run(["sha256sum", "--check", "--quiet", "--ignore-missing", "SHA256SUMS"], carried)
    assert (summed.returncode, summed.stdout.split(":")[0]) == (1, wheel)

    own = [
        line for line in (carried / "requirements.txt").read_text().splitlines() if line.startswith(wheel.split("-")[0])
    ]
    (carried / "one.txt").write_text("\n".join(own))
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--dest", "out"]
    taken = run([*pip, "--find-links", ".", "-r", "one.txt"], carried)
    assert taken.returncode == 1
    assert "DO NOT MATCH THE HASHES" in taken.stderr


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    result = subprocess.run(
        [ROOT / "scripts" / "bundle", "--out", tmp_path], capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, (tmp_path / "precious").exists()) == (1, True)
    assert "is no bundle" in result.stderr
