"""Streams, JSON, durations: what `Output` writes where."""

import json
import math
import os
import sys
from pathlib import Path

import pytest

from fedsite.cli.output import Output, duration
from fedsite.errors import AnotherRun, DataNotFit, OutsideHours, TryAgainLater, UsageError


def test_results_for_people_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Output().result("done", {"a": 1}, "a line for people")
    Output().result("done", {"a": 1}, lambda console: console.print("drawn"))
    Output().result("done", {"a": 1})
    found = capsys.readouterr()
    assert (found.out, found.err) == ("a line for people\ndrawn\n", "")


def test_a_fingerprint_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint = "C2:AB:F1:ID:OK:A4"
    Output().note(fingerprint)
    Output().warn(fingerprint)
    Output().error(UsageError(fingerprint, fingerprint))
    Output().result("done", {}, lambda console: console.print(fingerprint))
    found = capsys.readouterr()
    assert (found.out + found.err).count(fingerprint) == 5


def test_json_replaces_what_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Output(command="x", as_json=True).result("done", {"path": Path("/a"), "é": "\n"}, "a line for people")
    found = capsys.readouterr()
    assert found.out.count("\n") == 1
    assert json.loads(found.out) == {
        "schema": 1,
        "command": "x",
        "outcome": "done",
        "data": {"path": "/a", "é": "\n"},
        "error": None,
    }


def test_what_is_no_number_never_becomes_json(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN and Infinity are no JSON: better a bug (exit 1) than an answer that no parser takes."""
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            Output(as_json=True).result("done", {"a": value})
    assert capsys.readouterr().out == ""


def test_notes_and_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        Output(as_json=as_json).note("[bold]worth knowing[/bold]")
        Output(as_json=as_json, quiet=True).note("hidden")
        Output(as_json=as_json, quiet=True).warn("[red]look[/red]")
        found = capsys.readouterr()
        assert (found.out, found.err) == ("", "[bold]worth knowing[/bold]\nWarning: [red]look[/red]\n")


def test_an_error_is_two_lines_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    Output(quiet=True).error(DataNotFit("Series s-[bold]x[/bold] " + "is long " * 40 + "end.", "Mend [it]."))
    found = capsys.readouterr()
    assert found.out == ""
    assert len(found.err.splitlines()) == 2
    assert "[bold]" in found.err
    assert found.err.endswith("end.\nMend [it].\n")
    Output().error(TryAgainLater("Only this."))
    assert capsys.readouterr().err == "Error: Only this.\n"


def test_a_step_without_a_terminal_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    with Output().step("Reading") as progress:
        progress(1, 2)
        progress(2, 2)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90", 90), ("90s", 90), ("10m", 600), ("24h", 86_400), ("7d", 604_800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "m", "-1s", "1.5h", "1 h", "1w", "1hh", "h1", "nan", "9" * 5000, "1e3s", "²"]
)
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="is no duration"):
        duration(text)


def test_an_ordinary_night_is_silent_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (AnotherRun("At work."), OutsideHours("It is noon.")):
        Output(quiet=True).error(error)
        assert capsys.readouterr() == ("", "")
        Output().error(error)
        assert capsys.readouterr().err.startswith("Error: ")
    Output(quiet=True).error(TryAgainLater("Nobody has agreed."))
    assert capsys.readouterr().err == "Error: Nobody has agreed.\n"
    Output(quiet=True, as_json=True).error(AnotherRun("At work."))
    assert json.loads(capsys.readouterr().out)["outcome"] == "pending"


def test_a_note_on_an_error_is_told_before_its_mend(capsys: pytest.CaptureFixture[str]) -> None:
    error = DataNotFit("Broken.", "Mend it.")
    error.add_note("This was the 2nd time in a row.")
    Output(quiet=True).error(error)
    assert capsys.readouterr().err == "Error: Broken.\nThis was the 2nd time in a row.\nMend it.\n"


def test_the_journal_is_told_what_is_grave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for named in ("", "1:2", "x"):  # another stream, as a shell within a service would have
            monkeypatch.setenv("JOURNAL_STREAM", named)
            Output().warn("look")
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        Output().warn("look\nhere")
        Output().note("by the way")
        Output().error(DataNotFit("Broken.", "Mend it."))
    said = (tmp_path / "journal").read_text()
    assert said == "Warning: look\n" * 3 + "<4>Warning: look\n<4>here\n<6>by the way\n<3>Error: Broken.\n<3>Mend it.\n"
