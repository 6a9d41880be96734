"""fedsite on a real terminal (tmux), as an operator meets it: questions, an unseen secret, a screen that fits."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.federation import Server
from support.processes import FEDSITE
from support.site import Site, prepare_blobs


class Terminal:
    """A tmux session of its own server, 80 columns wide."""

    def __init__(self, socket: Path, environment: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(socket)]
        variables = [f"{name}={value}" for name, value in environment.items()]
        shell = ["env", "-i", *variables, "sh", "-i"]
        subprocess.run([*self._tmux, "new-session", "-d", "-x", "80", "-y", "40", *shell], check=True)

    def type(self, text: str) -> None:
        """Types a line."""
        subprocess.run([*self._tmux, "send-keys", "-l", text], check=True)
        subprocess.run([*self._tmux, "send-keys", "Enter"], check=True)

    def screen(self) -> str:
        """What is on the screen and above it."""
        seen = subprocess.run([*self._tmux, "capture-pane", "-p", "-S", "-200"], check=True, capture_output=True)
        return seen.stdout.decode()

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """The screen, once it shows the text."""
        end = time.monotonic() + seconds
        while text not in (screen := self.screen()):
            assert time.monotonic() < end, f"{text!r} did not appear:\n{screen}"
            time.sleep(0.1)
        return screen

    def close(self) -> None:
        """Ends the session and its server."""
        subprocess.run([*self._tmux, "kill-server"], check=False)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[[Site], Terminal]]:
    if shutil.which("tmux") is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is missing: scripts/setup --test-tools installs it")
        pytest.skip("tmux is not installed (scripts/setup --test-tools installs it)")
    opened: list[Terminal] = []

    def open_terminal(site: Site) -> Terminal:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        variables = kept | {"FEDSITE_CONFIG": str(site.config), "TERM": "screen", "PS1": "$ "}
        opened.append(Terminal(tmp_path / "tmux", variables))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def test_a_site_is_set_up_by_answering_questions(
    server: Server, tmp_path: Path, terminal: Callable[[Site], Terminal]
) -> None:
    site = Site(tmp_path / "asked")
    site.home.mkdir()
    screen = terminal(site)
    screen.type(f"{FEDSITE} init --config {site.config} --state {site.state} --data {site.data}")
    screen.wait_for("Privacy budget epsilon (cannot be changed later) [8]")
    screen.type("")
    screen.wait_for("delta, below 1 / patients (cannot be changed later)")
    screen.type("")
    screen.wait_for("About how many patients")
    screen.type("150")
    screen.wait_for("Next: fedsite enroll")

    invitation = server.invite("asked")
    screen.type(f"{FEDSITE} enroll")
    screen.wait_for("Invitation")
    screen.type(invitation)
    screen.wait_for("Who accepts it for this site?")
    screen.type("Ada Tester")
    shown = screen.wait_for("This is site asked of federation test-federation.")
    assert "Be kind." in shown, "the agreement must be shown before it is accepted"
    assert invitation[:40] not in shown, "an invitation is a secret: it must not be echoed"
    assert site.ok("enroll")["data"]["agreement_accepted_by"] == "Ada Tester"


def test_status_fits_the_screen(site: Site, terminal: Callable[[Site], Terminal]) -> None:
    prepare_blobs(site)
    screen = terminal(site)
    screen.type(f"clear; {FEDSITE} status; echo the-''end")
    lines = screen.wait_for("the-end\n").splitlines()
    text = "\n".join(lines)
    assert "Site         site-a in federation test-federation" in text
    assert "4 training, 1 held out (stroke-dwi)" in text
    assert "epsilon 0 per patient (add or remove one), delta 1e-06" in text
    assert len([line for line in lines if line.strip()]) < 24


def test_a_person_agrees_to_a_plan(
    server: Server, site: Site, tmp_path: Path, terminal: Callable[[Site], Terminal]
) -> None:
    server.open_round(tmp_path, local={"steps": 0, "patch_voxels": [16, 16, 16]})
    site.configure(policy={"approve_plans": True})
    assert site.run("train-round").code == 75
    screen = terminal(site)
    screen.type(f"{FEDSITE} approve test-plan")
    shown = screen.wait_for("Who agrees to this?")
    assert "gaussian-update, clip norm 1, noise multiplier 0.1" in shown
    screen.type("Ada Tester")
    screen.wait_for("Ada Tester has agreed. Next: fedsite train-round")
    assert site.ok("train-round")["outcome"] == "uploaded"
    site.configure(policy={"approve_plans": False})


def test_progress_is_drawn_on_a_terminal_only(
    server: Server, site: Site, tmp_path: Path, terminal: Callable[[Site], Terminal]
) -> None:
    prepare_blobs(site, size=40)
    server.open_round(tmp_path, local={"steps": 0, "patch_voxels": [16, 16, 16]}, shapes={"only.weight": (2000, 1000)})
    screen = terminal(site)
    screen.type(f"{FEDSITE} train-round 2>{tmp_path}/stderr; echo the-''end")
    screen.wait_for("the-end\n")
    assert (tmp_path / "stderr").read_text() == "", "no bar where stderr is a file"
    assert "receipt verified" in screen.screen()
