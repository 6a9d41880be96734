"""The log of runs: bounded, private, and read back."""

import errno
import os
from pathlib import Path

import pytest

from fedsite.jobs.unattended import run_log


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "FILE_BYTES", 2_000)
    monkeypatch.setattr(run_log, "OLDER_FILES", 2)


@pytest.mark.usefixtures("short")
def test_it_is_bounded_and_private(tmp_path: Path) -> None:
    for number in range(200):
        run_log.write(tmp_path, {"time": f"2026-01-01T00:00:{number:03}", "outcome": "100% é\nline"})
    files = sorted((tmp_path / run_log.FOLDER).iterdir())
    assert [path.name for path in files] == ["runs.jsonl", "runs.jsonl.1", "runs.jsonl.2"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert sum(path.stat().st_size for path in files) <= 3 * 2_000
    newest = run_log.last(tmp_path)
    assert newest == {"time": "2026-01-01T00:00:199", "outcome": "100% é\nline"}
    kept = run_log.since(tmp_path, "")
    assert [one["time"] for one in kept] == sorted(one["time"] for one in kept)
    assert len(kept) == sum(len(path.read_text().splitlines()) for path in files)
    assert [one["time"][-3:] for one in run_log.since(tmp_path, "2026-01-01T00:00:198")] == ["198", "199"]


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert run_log.last(tmp_path) is None
    assert run_log.since(tmp_path, "") == []
    (tmp_path / run_log.FOLDER).mkdir()
    (tmp_path / run_log.FOLDER / run_log.NAME).write_bytes(b'{"time": "1"}\n\xff\n[1]\n{"time"')
    assert run_log.last(tmp_path) is None
    assert run_log.since(tmp_path, "") == [{"time": "1"}]


def test_a_full_disk_is_an_error_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run_log.write(tmp_path, {"time": "1"})
    monkeypatch.setattr("logging.StreamHandler.flush", full)
    with pytest.raises(OSError, match="No space left"):
        run_log.write(tmp_path, {"time": "2"})
    assert capsys.readouterr() == ("", "")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / run_log.FOLDER).mkdir()
    (tmp_path / run_log.FOLDER / run_log.NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        run_log.write(tmp_path, {"time": "1"})
    assert not (tmp_path / "elsewhere").exists()
