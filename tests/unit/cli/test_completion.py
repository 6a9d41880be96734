"""Completion, as each shell asks for it: in the shell itself, and never with a word that nobody asked for."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command_tree import COMMANDS, ROOT
from support.site import Site, prepare_blobs
from support.tools import require

from fedsite.cli import completion
from fedsite.cli.output import Output

FEDSITE = Path(sys.executable).with_name("fedsite")
SCRIPTS = Path(completion.__file__).parent / "completions"
SECONDS = 60
HEAVY = ("torch", "monai", "httpx", "rich")


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, list[str]]]:
    """What `fedsite __complete WORD...` answers: the kind, and the words without what they are."""

    def asked(*words: str) -> tuple[str, list[str]]:
        completion.answer(ROOT, list(words))
        told = capsys.readouterr()
        assert told.err == ""
        kind, *offers = told.out.splitlines()
        return kind, [offer.partition("\t")[0] for offer in offers]

    return asked


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site with prepared data, of which nobody but its files knows."""
    made = Site(tmp_path)
    made.set_up()
    prepare_blobs(made)
    return made


@pytest.mark.parametrize(
    ("words", "kind", "offers"),
    [
        (["sch"], "words", ["schedule"]),
        (["privacy", "h"], "words", ["history"]),
        (["server", "round", "re"], "words", ["report", "release", "resume"]),
        (["--json", "stat"], "words", ["status"]),
        (["--config", "x.yaml", "stat"], "words", ["status"]),
        (["privacy", "--json", "sho"], "words", ["show"]),
        (["train-round", "--d"], "words", ["--dry-run", "--devices"]),
        (["train-round", "--dry-run", "--d"], "words", ["--devices"]),
        (["status", "--js"], "words", ["--json"]),
        (["schedule", "install", "--with", ""], "words", ["cron", "systemd"]),
        (["schedule", "install", "--with=s"], "words", ["--with=systemd"]),
        (["tasks", "show", "stroke-"], "words", ["stroke-dwi", "stroke-t1"]),
        (["prepare-data", "x", "--task", "stroke-t"], "words", ["stroke-t1"]),
        (["prepare-data", "x", "--task", "stroke-t1", "--layout", ""], "words", ["bids"]),
        (["config", "explain", "privacy.ep"], "words", ["privacy.epsilon"]),
        (["completion", ""], "words", ["bash", "zsh", "fish"]),
        (["inspect", ""], "files", []),
        (["--config", ""], "files", []),
        (["evaluate", "--plan="], "files", []),
        (["predict", "x", "--out", ""], "folders", []),
        (["inspect", "--", "--vol"], "files", []),
        (["inspect", "x", ""], "words", []),
        (["no-such-command", ""], "words", []),
        (["train-round", "--wait", ""], "words", []),
        (["server", "site", "revoke", ""], "words", []),  # no federation here, and no word about it
    ],
)
def test_what_may_stand_there(
    ask: Callable[..., tuple[str, list[str]]], words: list[str], kind: str, offers: list[str]
) -> None:
    assert ask(*words) == (kind, offers)


def test_names_come_from_the_sites_own_files(ask: Callable[..., tuple[str, list[str]]], site: Site) -> None:
    config = ("--config", str(site.config))
    ids = ask(*config, "data", "exclude", "")[1]
    assert {name[0] for name in ids} == {"e", "p"}
    assert ask(*config, "data", "exclude", ids[0]) == ("words", ids[:1])
    site.config.write_text("paths: [")
    assert ask(*config, "data", "exclude", "") == ("words", [])
    assert "stroke-dwi" in ask(*config, "tasks", "show", "")[1], "what comes with fedsite is known all the same"


def test_a_word_that_a_shell_could_take_for_more_is_not_offered(
    ask: Callable[..., tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = ("$(reboot)", "`reboot`", "a b", "a;b", "a\nb", "\x1b[2J", "'", "good-1.2")
    monkeypatch.setitem(completion.NAMES, "TASK", lambda _given: ((word, "") for word in hostile))
    assert ask("tasks", "show", "") == ("words", ["good-1.2"])


def test_what_a_word_is_stays_beside_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    title = "Stroke\n$(reboot)\tDWI \x1b[2J\u202e \u00e9"
    monkeypatch.setitem(completion.NAMES, "TASK", lambda _given: iter([("good", title)]))
    completion.answer(ROOT, ["tasks", "show", ""])
    assert capsys.readouterr().out == "words\ngood\tStroke $(reboot) DWI [2J \u00e9\n"


def test_a_federation_elsewhere_is_not_asked(
    ask: Callable[..., tuple[str, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "database.url").write_text("postgresql://nobody@203.0.113.1/x")
    monkeypatch.setattr("fedsite.server.federation.open_federation", lambda _folder: pytest.fail("it was opened"))
    assert ask("server", "round", "show", "--dir", str(tmp_path), "") == ("words", [])


def test_a_completion_computes_nothing_and_speaks_to_nobody() -> None:
    script = (
        "import json, sys; from fedsite.cli.main import main\n"
        "for words in (['sta'], ['tasks', 'show', ''], ['config', 'explain', '']):\n"
        "    sys.argv[1:] = ['__complete', *words]; main()\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(HEAVY) & set(json.loads(done.stdout.splitlines()[-1])) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_and_is_one(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    COMMANDS["completion"].main([shell], obj=Output(), prog_name="fedsite completion", standalone_mode=False)
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert script.read_text() == (SCRIPTS / f"fedsite.{shell}").read_text()
    subprocess.run([require(shell, shell), "-n", script], check=True)
    if shell == "bash":
        subprocess.run([require("shellcheck", "shellcheck"), "--shell", "bash", script], check=True)


class Terminal:
    """An interactive shell on a terminal of its own, that finds fedsite in PATH."""

    def __init__(self, command: list[str], home: Path, prompt: str) -> None:
        ours, theirs = pty.openpty()
        environment = {
            "PATH": f"{FEDSITE.parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "TERM": "dumb",
            "PS1": prompt,
        }
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=home, start_new_session=True
        )
        os.close(theirs)
        self._terminal, self.seen = ours, ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait_for(self, pattern: str) -> str:
        """What has been shown since, once it matches."""
        end = time.monotonic() + SECONDS
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, f"{pattern!r} did not appear: {self.seen!r}"
            if select.select([self._terminal], [], [], 0.2)[0]:
                self.seen += os.read(self._terminal, 4096).decode(errors="replace")
        shown, self.seen = self.seen, ""
        return shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(program: str, *options: str) -> Terminal:
        (tmp_path / "my plans").mkdir()
        (tmp_path / "my plans" / "plan.yaml").touch()
        opened.append(Terminal([require(program, program), *options], tmp_path, "READY> "))
        opened[-1].wait_for("READY> ")
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_bash_completes(shell: Callable[..., Terminal]) -> None:
    bash = shell("bash", "--norc", "--noprofile", "-i")
    bash.type(f"source {SCRIPTS}/fedsite.bash\r")
    bash.type("fedsite sched\t")
    bash.wait_for("fedsite schedule ")
    bash.type("install --with=s\t")
    bash.wait_for("--with=systemd ")
    bash.type(f"\x15{FEDSITE} inspect my\t")
    bash.wait_for(r"inspect my\\ plans/")
    bash.type("\x15fedsite no-such-command \tDONE")
    assert re.search(r"no-such-command \x07?DONE$", bash.wait_for("DONE"))


def test_zsh_completes(shell: Callable[..., Terminal]) -> None:
    zsh = shell("zsh", "-f", "-i")
    zsh.type(f"autoload -Uz compinit; compinit -u -D; source {SCRIPTS}/fedsite.zsh; echo STA''RTED\r")
    zsh.wait_for("STARTED")
    zsh.type("fedsite tasks show haem\t")
    zsh.wait_for("haemorrhage-ct ")
    zsh.type("\x15fedsite privacy \t")
    shown = zsh.wait_for(r"(?s)attack .*READY")
    assert "what the ledger has spent" in shown
    zsh.type("\x15fedsite inspect my\t")
    zsh.wait_for(r"inspect my\\ plans/")


def test_fish_completes(tmp_path: Path) -> None:
    program = require("fish", "fish")
    (tmp_path / "my plans").mkdir()
    offered = {
        "fedsite sched": "schedule\tTaking part by itself, by systemd or cron",
        "fedsite schedule install --with=s": "--with=systemd",
        "fedsite inspect my": "my plans/",
        "fedsite no-such-command ": None,
    }
    script = f"source {SCRIPTS / 'fedsite.fish'}; for line in $argv; complete --do-complete $line; end"
    environment = {"PATH": f"{FEDSITE.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = [program, "--no-config", "-c", script, *offered]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=SECONDS)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [line for line in offered.values() if line]
