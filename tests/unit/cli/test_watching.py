"""A round that is followed until it has ended."""

import io
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.federation import draft, make, model_file, tensors, update_file

from fedsite.cli import watching
from fedsite.cli.output import Output
from fedsite.cli.server_round import _round_text
from fedsite.errors import TryAgainLater, UsageError
from fedsite.files import sha256_of
from fedsite.server.exchange import uploads
from fedsite.server.federation import Federation
from fedsite.server.rounds import rounds, series
from fedsite.wire.messages import utc_now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """With a round that is open."""
    made = make(tmp_path / "federation")
    series.open_series(made, draft(tmp_path), model_file(tmp_path / "model"), 1)
    yield made
    made.database.close()


def deliver(federation: Federation, site: str, folder: Path) -> None:
    update = update_file(folder / "update", tensors(1))
    said = uploads.Announcement(sha256_of(update), update.stat().st_size, 1, None)
    upload = uploads.announce(federation, site, 1, said)
    part = uploads.Part(federation, upload, 0)
    part.write(update.read_bytes())
    part.close()
    uploads.conclude(federation, site, upload.id)


@pytest.fixture
def steps(federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens while it is watched: a look at a time."""
    waiting = [
        lambda: deliver(federation, "site-a", tmp_path),
        lambda: deliver(federation, "site-b", tmp_path),
        lambda: rounds.advance(federation),
    ]
    monkeypatch.setattr(time, "sleep", lambda _seconds: waiting.pop(0)())


def test_where_there_is_no_terminal_lines_tell_what_changes(
    federation: Federation, steps: None, capsys: pytest.CaptureFixture[str]
) -> None:
    report = watching.follow(Output(), federation, 1, _round_text)
    assert (report["status"], len(report["took_part"])) == ("aggregated", 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "Round 1 is open: 0 updates of 1",
        "Round 1 is open: 1 updates of 1",
        "site-a: took part",
        "Round 1 is open: 2 updates of 1",
        "site-b: took part",
        "Round 1 is aggregated: 2 updates of 1",
    ]


def test_a_terminal_is_drawn_on_and_left_clean(
    federation: Federation, steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    watching.follow(Output(), federation, 1, _round_text)
    drawn = terminal.getvalue()
    states = re.findall(r"plan test-plan: (\w+)", drawn)
    assert states[:4] == ["open", "open", "open", "aggregated"]
    assert drawn.endswith("\x1b[2K"), "what was drawn is taken away"


def test_quiet_says_nothing(federation: Federation, steps: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert watching.follow(Output(quiet=True), federation, 1, _round_text)["status"] == "aggregated"
    assert capsys.readouterr().err == ""


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [utc_now()]
    made = make(tmp_path / "federation", lambda: now[0])
    series.open_series(made, draft(tmp_path), model_file(tmp_path / "model"), 1)
    passed = iter(range(0, 10_000, 200))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(passed)))
    monkeypatch.setattr(time, "sleep", lambda _seconds: now.append(now.pop() + timedelta(seconds=200)))
    with pytest.raises(TryAgainLater, match="nobody sees it through"):
        watching.follow(Output(), made, 1, _round_text)
    with pytest.raises(UsageError, match="no round 2"):
        watching.follow(Output(), made, 2, _round_text)
    made.database.close()
