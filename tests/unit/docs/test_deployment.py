"""The container files and the batch job of sample_configs: what they name is there, and they do what they promise."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from support.command_tree import COMMANDS, command_of
from support.tools import require

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "sample_configs"
CONTAINERFILE = SAMPLES / "container" / "Containerfile"
COMPOSE = SAMPLES / "container" / "compose.yaml"
BATCH_JOB = SAMPLES / "slurm" / "fedsite.sbatch"
IMAGES = ("cpu", "cuda", "server")


def instructions() -> list[tuple[str, str, str]]:
    """The stage of each instruction, its word, and the rest of it; comments gone, lines joined."""
    text = re.sub(r"^\s*#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], ""
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        found.append((stage, word, rest.strip()))
    return found


INSTRUCTIONS = instructions()
STAGES = {stage: rest.split(" AS ")[0] for stage, word, rest in INSTRUCTIONS if word == "FROM"}


def of(stage: str, word: str) -> list[str]:
    """The instructions of a stage and of those that it is made from, the newest last."""
    base = of(STAGES[stage], word) if STAGES.get(stage) in STAGES else []
    return base + [rest for where, what, rest in INSTRUCTIONS if where == stage and what == word]


def ignored() -> set[str]:
    lines = (ROOT / ".containerignore").read_text().splitlines()
    assert "*" in lines, "only what is named gets into a build"
    return {line[1:] for line in lines if line.startswith("!")}


def test_what_is_copied_is_there_and_nothing_else_gets_into_a_build() -> None:
    copied = {
        name for _, word, rest in INSTRUCTIONS if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]
    }
    assert copied == ignored()
    assert all((ROOT / name).exists() for name in copied)
    stages = {name for _, _, rest in INSTRUCTIONS for name in re.findall(r"--from=(\S+)", rest)}
    assert stages <= set(STAGES)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_nobodys_but_its_users(image: str) -> None:
    assert of(image, "USER") == ["10001:10001"]
    assert json.loads(of(image, "ENTRYPOINT")[-1]) == ["fedsite"]
    words = [word for word in json.loads(of(image, "CMD")[-1]) if word != "--quiet"]
    own = command_of(words)
    COMMANDS[own].make_context(own, words[len(own.split()) :])
    assert STAGES["common"] == STAGES["wheel"] == "${BASE}", "a venv needs the Python that made it"
    assert not re.search(r"SECRET|PASSW|TOKEN|KEY", " ".join(of(image, "ENV") + of(image, "ARG")).upper())


def test_everything_is_pinned_and_comes_as_wheels() -> None:
    [base] = [rest for stage, word, rest in INSTRUCTIONS if (stage, word) == ("", "ARG")]
    image, _, tag = base.removeprefix("BASE=").rpartition(":")
    assert (image, tag) == ("docker.io/library/python", "3.11-slim-bookworm")
    [settings] = of("wheel", "ENV")
    assert "PIP_ONLY_BINARY=:all:" in settings
    assert "PIP_CONSTRAINT=/src/constraints.txt" in settings
    installed = [rest for _, word, rest in INSTRUCTIONS if word == "RUN" and "pip" in rest]
    assert all("==" not in rest for rest in installed), "versions stand in constraints.txt alone"


def test_the_server_has_neither_torch_nor_what_a_site_needs() -> None:
    [install] = of("server-packages", "RUN")[-1:]
    assert "-r requirements-server.txt" in install
    assert "--no-deps /wheels/*.whl" in install
    wanted = {line for line in (ROOT / "requirements-server.txt").read_text().splitlines() if not line.startswith("#")}
    assert "sqlalchemy" in wanted
    assert not wanted & {"torch", "monai"}
    [health] = of("server", "HEALTHCHECK")
    compile(json.loads(health[health.index("CMD ") + 4 :])[2], "health", "exec")


def test_compose_runs_the_images_with_the_least_that_they_need() -> None:
    found = yaml.safe_load(COMPOSE.read_text())
    for service in found["services"].values():
        assert service["build"]["target"] in IMAGES
        assert (
            COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]
        ).resolve() == CONTAINERFILE
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        places = [one.split(":")[1] for one in service["volumes"] if not one.startswith("$")]
        assert set(json.loads(of(service["build"]["target"], "VOLUME")[-1])) == set(places), "what is written is kept"
        assert {one.split(":")[0] for one in service["volumes"] if not one.startswith("$")} <= set(found["volumes"])


STAND_INS = {
    "srun": 'printf "%s\\n" "$*" >>"$LOG"; ls -d "$TMPDIR" >>"$LOG"; exit "$CODE"',
    "sbatch": 'printf "sbatch %s\\n" "$*" >>"$LOG"; exit "${REFUSED:-0}"',
}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with stand-ins for Slurm's commands, which write down how they were called."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scratch").mkdir()
    return tmp_path


def run(cluster: Path, **environment: str) -> tuple[int, list[str]]:
    log = cluster / "log"
    log.unlink(missing_ok=True)
    variables = {"PATH": f"{cluster}:{os.environ['PATH']}", "LOG": str(log), "SLURM_TMPDIR": str(cluster / "scratch")}
    done = subprocess.run([BATCH_JOB], env=variables | environment, timeout=60)
    assert list((cluster / "scratch").iterdir()) == [], "scratch is cleared"
    return done.returncode, log.read_text().splitlines()


@pytest.mark.parametrize(("code", "told"), [(0, 0), (75, 0), (143, 0), (74, 74), (78, 78), (81, 81)])
def test_slurm_hears_of_failures_alone(cluster: Path, code: int, told: int) -> None:
    ended, lines = run(cluster, CODE=str(code))
    assert ended == told
    assert lines[0] == "--ntasks=1 /opt/fedsite/bin/fedsite --quiet train-round"
    assert lines[1].startswith(str(cluster / "scratch" / "fedsite."))


def test_a_job_submits_the_next_one_once(cluster: Path) -> None:
    ended, lines = run(cluster, CODE="74", FEDSITE_EVERY="6hours")
    assert (ended, lines[0]) == (74, f"sbatch --begin=now+6hours --export=ALL {BATCH_JOB}"), "before it can fail"
    assert not run(cluster, CODE="0", FEDSITE_EVERY="6hours", SLURM_RESTART_COUNT="1")[1][0].startswith("sbatch")
    assert run(cluster, CODE="0", FEDSITE_EVERY="6hours", REFUSED="1")[0] == 1, "an end of the chain is told"


def test_the_batch_job_is_a_script_with_its_options_first() -> None:
    subprocess.run([require("shellcheck", "shellcheck"), BATCH_JOB], check=True)
    before, _, after = BATCH_JOB.read_text().partition("\nset ")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", before, re.MULTILINE))
    assert "#SBATCH" not in after, "Slurm reads none after the first command"
    assert options["signal"] == "TERM@60", "to the step, which is fedsite"
    assert options["dependency"] == "singleton"
    assert "requeue" in options
    words = shlex.split(re.findall(r'"\$FEDSITE" (.+)$', after, re.MULTILINE)[0])
    assert command_of([word for word in words if word != "--quiet"]) == "train-round"
