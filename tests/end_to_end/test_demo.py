"""scripts/demo, small: the whole story with fewer patients and rounds, and what it says when a step fails."""

import json
from functools import partial
from pathlib import Path

import commands
import demo
import pytest
from commands import Fedsite, StepFailed, set_key
from support import processes

from fedsite.site.config import read_yaml

SITES = ("alder", "birch")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SITES", 2)
    monkeypatch.setattr(demo, "PATIENTS", 4)
    monkeypatch.setattr(demo, "HELD_OUT", 0.5)
    monkeypatch.setattr(demo, "ROUNDS", 1)
    monkeypatch.setattr(demo, "SPACING_MM", [4.0, 4.0, 4.0])
    monkeypatch.setattr(demo, "LOCAL_WORK", {**demo.LOCAL_WORK, "steps": 2})
    monkeypatch.setattr(demo, "make_hospitals", partial(demo.make_hospitals, coarser=1.6, workers=1))


def forked(fedsite: Fedsite, *arguments: str, text: str = "") -> commands.Answer:
    """The same command without its start, which takes longer than what this story asks of it."""
    given = [processes.FEDSITE, *arguments, *fedsite.options]
    done = processes.run(given, commands.environment(), text, commands.LONGEST_STEP_SECONDS)
    return commands.Answer(done.code, done.stdout, done.stderr, 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_whole_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Fedsite, "run", forked)
    demo.run(tmp_path, seed=6, lesions=None)  # with this one each hospital holds out one patient of four
    told = capsys.readouterr().out
    assert "no meaningful guarantee" in told
    assert "exit code 81" in told
    rounds = json.loads((tmp_path / "summary.json").read_text())["rounds"]
    assert [row["round"] for row in rounds] == [0, 1]
    assert rounds[0]["bytes"] == 0
    assert rounds[0]["epsilon"] == dict.fromkeys(SITES, 0.0)
    assert all(epsilon > 20 for epsilon in rounds[1]["epsilon"].values())
    assert len(set(rounds[1]["uploads"].values())) == len(SITES)
    assert rounds[1]["bytes"] > 100_000
    assert all(0 <= row["dice"][site] <= 1 for row in rounds for site in SITES)
    assert_nothing_leaked(next(tmp_path.glob("run-*")))


def assert_nothing_leaked(work: Path) -> None:
    """No identifier of any patient in any byte that fedsite wrote (law 8); the exports themselves lie apart."""
    hospitals = json.loads((work / "hospitals" / "hospitals.json").read_text())
    secrets = [
        value.encode()
        for hospital in hospitals
        for patient in hospital["patients"]
        for key in ("patient_id", "birth_date", "accession", "study_uid", "trace_series_uid")
        for value in [patient[key]]
    ]
    secrets += [
        part.encode()
        for hospital in hospitals
        for patient in hospital["patients"]
        for part in patient["name"].split("^")
    ]
    secrets += [hospital["source"].encode() for hospital in hospitals]
    written = [path for path in work.rglob("*") if path.is_file() and work / "hospitals" not in path.parents]
    assert len(written) > 20
    for path in written:
        content = path.read_bytes().lower()
        assert not [secret for secret in secrets if secret.lower() in content], path


@pytest.mark.usefixtures("small")
def test_a_step_that_fails_is_shown_and_the_server_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "PATIENTS", 1)
    monkeypatch.setattr(demo, "TASK", "stroke-dwj")
    monkeypatch.setattr("sys.argv", ["scripts/demo", "--out", str(tmp_path)])
    assert demo.main() == 1
    told = capsys.readouterr().err
    assert "$ fedsite init" in told
    assert "exit code" in told
    assert "stroke-dwi" in told, "the command's own mend is shown"
    assert not (tmp_path / "summary.json").exists()


def test_a_key_is_set_once_and_its_comment_stays(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text("policy:\n  maximum_epsilon: null    # tightens\n  other: 1\n")
    set_key(config, "maximum_epsilon", 1500000.0)
    assert read_yaml(config) == {"policy": {"maximum_epsilon": 1500000.0, "other": 1}}
    assert "# tightens" in config.read_text()
    with pytest.raises(StepFailed, match="0 lines for absent"):
        set_key(config, "absent", 1)
