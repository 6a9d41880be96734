"""The coordinator's machine: an environment that really holds nothing but what requirements-server.txt names."""

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from support.federation import NAME, Server, environment, model_file, plan, tensors, update_file

from fedsite.files import sha256_of

ROOT = Path(__file__).parents[3]
UNWANTED = ("torch", "monai", "dp_accounting", "pydicom", "nibabel", "keyring", "scipy")
ONE_AFTER_ANOTHER = """
import json, sys
from fedsite.cli.main import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["fedsite", *command]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (command, ended.code)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a virtual environment with links to exactly the distributions that the server needs."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for found in _closure((ROOT / "requirements-server.txt").read_text().splitlines()):
        for name in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(found.locate_file(name)))
            if source.exists() and not (site_packages / name).exists():
                (site_packages / name).symlink_to(source)
    (site_packages / "fedsite").symlink_to(ROOT / "fedsite")
    own = Path(str(distribution("fedsite").locate_file(""))) / f"fedsite-{distribution('fedsite').version}.dist-info"
    (site_packages / own.name).symlink_to(own)
    return str(python)


def test_the_environment_is_bare(python: str) -> None:
    for name in UNWANTED:
        asked = subprocess.run([python, "-I", "-c", f"import {name}"], capture_output=True, text=True, check=False)
        assert "ModuleNotFoundError" in asked.stderr, name


def test_a_federation_runs_there(python: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "federation", [python, "-I", "-m", "fedsite.cli.main"])
    made = subprocess.run(
        [*server.command, "server", "init", str(server.folder), "--federation", NAME, "--name", "localhost"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan(rounds={"quorum": 1, "deadline_seconds": 600})))
    model = model_file(tmp_path / "model.safetensors")
    opened = server.run("server", "round", "open", str(tmp_path / "plan.yaml"), "--model", str(model))
    assert opened.returncode == 0, opened.stderr
    server.start()
    try:
        identity = server.enrol("site-a", tmp_path / "site-a")
        update = update_file(tmp_path / "update", tensors(1))
        with server.client(identity) as client:
            client.upload(1, update, sha256_of(update), 1)
        ok(
            server,
            ("server", "invite", "site-b"),
            ("server", "site", "list"),
            ("server", "round", "list"),
            ("server", "round", "show", "1"),
            ("server", "round", "close", "1"),
        )
        server.wait_for(1, "aggregated")  # the server and who closes it see it through together
        ok(
            server,
            ("server", "round", "report", "1", "--output", str(tmp_path / "round.html")),
            ("server", "site", "revoke", "site-a"),
            ("server", "backup", str(tmp_path / "backup")),
            ("server", "upgrade"),
            ("model", "list"),
            ("model", "show", "--round", "1"),
            ("model", "export", "--round", "1", "-o", str(tmp_path / "exported")),
        )
        made = [*server.command, "model", "init", str(tmp_path / "plan.yaml"), "-o", str(tmp_path / "model-0")]
        refused = subprocess.run(made, env=environment(), capture_output=True, text=True, check=False)
        assert refused.returncode == 78
        assert "torch, which is not installed" in refused.stderr or "monai, which is not" in refused.stderr
        assert (tmp_path / "exported").stat().st_size == model.stat().st_size
    finally:
        assert server.stop() == 0, server.log


def test_the_server_does_not_import_what_it_need_not() -> None:
    code = (
        "import sys, fedsite.server.web.run, fedsite.server.rounds.reports, fedsite.cli.server, fedsite.cli.model;"
        f"print([name for name in {(*UNWANTED, 'jinja2')!r} if name in sys.modules])"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"


def ok(server: Server, *commands: tuple[str, ...]) -> None:
    """Each ends with 0; all in one process there, as its start takes most of a command's time."""
    told = json.dumps([[*command, "--dir", str(server.folder)] for command in commands])
    given = [server.command[0], "-I", "-c", ONE_AFTER_ANOTHER, told]
    done = subprocess.run(given, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _closure(lines: list[str]) -> Iterator[Distribution]:
    """The distributions that the lines name and what those need, as pip would install them."""
    waiting = [Requirement(line) for line in lines if line and not line.startswith("#")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        extras = {"", *wanted.extras}
        key = (wanted.name.lower(), frozenset(extras))
        if key in seen or (wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(key)
        found = distribution(wanted.name)
        yield found
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                waiting.append(needed)
