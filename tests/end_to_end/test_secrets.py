"""Secrets stay where they belong, files are their owner's alone, and nothing needs root.

A whole participation by the installed command, server and site, under a umask that forbids nothing and, where the tests
run as root, without any of root's capabilities. Then every byte that was said or written is searched.
"""

import base64
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.federation import Server, environment, model_file, plan_file
from support.processes import FEDSITE

from fedsite.wire.enrolment import Invitation

SHY = ["sh", "-c", 'umask 0; exec "$@"', "sh"]
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]


@dataclass
class Scene:
    """A site and a server that have met, and all that their commands have said."""

    folder: Path
    command: list[str]
    said: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def server(self) -> Path:
        return self.folder / "server"

    def run(self, *args: str, text: str = "", code: int = 0) -> str:
        """Runs `fedsite ARGS` from nothing; gives its standard output."""
        known = environment() | {"FEDSITE_CONFIG": str(self.folder / "site.yaml"), "HOME": str(self.folder)}
        if args[0] == "init":
            known.pop("FEDSITE_CONFIG")
        done = subprocess.run(
            [*self.command, *args, "--verbose"],
            env=known,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.said[f"{' '.join(args[:2])} ({len(self.said)})"] = done.stdout + done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("secrets")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not there, and the tests run as root")
    scene = Scene(folder, [*SHY, *(POWERLESS if os.geteuid() == 0 else []), FEDSITE])
    scene.run("server", "init", str(scene.server), "--federation", "test-federation", "--name", "localhost")
    server = Server(scene.server, scene.command)
    server.start()
    try:
        _take_part(scene, server)
    finally:
        server.stop()
    scene.said["server run"] = server.log
    return scene


def _take_part(scene: Scene, server: Server) -> None:
    """Enrols, with a wrong invitation first, and takes part in a round."""
    folder = scene.folder
    lines = {name: server.invite("north") for name in ("used", "spoilt")}
    wrong = Invitation.decode(lines["spoilt"])
    spoilt = Invitation(wrong.server, wrong.site, "x" * 43, wrong.ca_sha256).encode()
    terms = ("--epsilon", "1e6", "--delta", "1e-6", "--nominal-patients", "100")
    config = folder / "site.yaml"
    scene.run("init", "--config", str(config), "--state", str(scene.state), "--data", str(folder / "data"), *terms)
    text = config.read_text()
    config.write_text(
        re.sub(r"(?m)^(  weak_privacy:).*", r"\1 We know that this gives the patients no meaningful guarantee.", text)
    )
    accept = ("--accept-agreement", "Ada Tester", "--key-storage", "file")
    scene.run("enroll", "--invitation", "-", *accept, text=spoilt, code=77)
    scene.run("enroll", "--invitation", "-", *accept, text=lines["used"])
    server.open_series(plan_file(folder, local={"steps": 0}), model_file(folder / "model.safetensors"))
    scene.run("train-round")
    scene.run("identity", "renew")
    for name, line in lines.items():
        secret = Invitation.decode(line).secret
        scene.secrets[f"{name} invitation"] = secret
        scene.secrets[f"{name} authorisation"] = base64.b64encode(f"north:{secret}".encode()).decode()
    keys = [*(scene.server / "keys").glob("*.key"), scene.server / "keys" / "server.pem"]
    private = [*keys, *(one for one in (scene.state / "identity").rglob("*") if one.is_file() and _is_secret(one))]
    for path in private:
        body = path.read_text().split("PRIVATE KEY-----")
        scene.secrets[path.name] = body[1].split("\n")[1] if len(body) > 1 else body[0].strip()


def _is_secret(path: Path) -> bool:
    content = path.read_bytes()
    return b"PRIVATE KEY-----" in content or re.fullmatch(rb"[0-9a-f]{64}\n?", content) is not None


def test_the_search_knows_what_to_look_for(scene: Scene) -> None:
    """The keys of server, authority, plans, rounds and receipts; of the site its key, passphrase and pseudonyms."""
    assert len(scene.secrets) >= 4 + 5 + 3
    assert all(len(secret) > 30 for secret in scene.secrets.values())


def test_no_secret_is_said(scene: Scene) -> None:
    assert {what for what, said in scene.said.items() for secret in scene.secrets.values() if secret in said} == set()


def test_no_secret_is_written_but_where_it_belongs(scene: Scene) -> None:
    keys = {"keys", "identity"}
    found = {
        (str(path.relative_to(scene.folder)), name)
        for path in scene.folder.rglob("*")
        if path.is_file() and not keys & {one.name for one in path.parents}
        for name, secret in scene.secrets.items()
        if secret.encode() in path.read_bytes()
    }
    assert found == set()


def test_everything_is_its_owners_alone(scene: Scene) -> None:
    """Under a umask that forbids nothing. The configuration holds no secret, and may be root's: others may read it."""
    paths = [scene.state, scene.server, *scene.state.rglob("*"), *scene.server.rglob("*")]
    assert len(paths) > 30
    wrong = {
        str(path.relative_to(scene.folder)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in paths
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    }
    assert wrong == {}
    assert stat.S_IMODE((scene.folder / "site.yaml").stat().st_mode) & 0o022 == 0
