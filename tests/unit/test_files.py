"""Files are whole or not there, durable before they are named, and faults are named without a patient's file name."""

import errno
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedsite import files
from fedsite.errors import CannotWrite, SourceMissing


def fault(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_the_content_the_mode_and_nothing_else(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        files.write_atomically(tmp_path / "a", b"content")
        files.write_atomically(tmp_path / "b", b"secret", files.PRIVATE_FILE)
    finally:
        os.umask(previous)
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_private_file_is_never_readable_on_the_way(tmp_path: Path) -> None:
    with files.atomic_writer(tmp_path / "a", files.PRIVATE_FILE) as file:
        file.write(b"half of a secret")
        file.flush()
        assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), fault(errno.EINTR)])
def test_an_exception_keeps_the_old_content_and_leaves_no_temporary(tmp_path: Path, error: BaseException) -> None:
    files.write_atomically(tmp_path / "a", b"old")
    with pytest.raises(type(error)), files.atomic_writer(tmp_path / "a") as file:  # noqa: PT012
        file.write(b"new")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_the_bytes_are_durable_before_the_name_and_the_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        whole = target.is_dir() or target.stat().st_size == 7
        events.append(f"fsync {'folder' if target.is_dir() else 'file'} {whole}")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    files.write_atomically(tmp_path / "a", b"content")
    assert events == ["fsync file True", "rename", "fsync folder True"]


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO],
)
@pytest.mark.parametrize("where", ["open", "fsync", "rename"])
def test_a_fault_of_the_file_system_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    files.write_atomically(tmp_path / "DOE^JANE.nii", b"old")

    def fails(*_: Any, **__: Any) -> int:
        raise fault(number)

    with monkeypatch.context() as patch:
        patch.setattr(*{"open": (os, "open"), "fsync": (os, "fsync"), "rename": (Path, "replace")}[where], fails)
        with pytest.raises(CannotWrite) as named:
            files.write_atomically(tmp_path / "DOE^JANE.nii", b"new")
    assert named.value.exit_code == 73
    assert str(tmp_path) in named.value.message
    assert os.strerror(number) in named.value.message
    assert "DOE" not in str(named.value)
    assert (tmp_path / "DOE^JANE.nii").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_named_and_leaves_the_old_file() -> None:
    """The real thing: /dev/full gives ENOSPC at the first flush."""
    with pytest.raises(CannotWrite, match="No space left"), files.atomic_writer(Path("/dev/shm/x")) as file:  # noqa: PT012
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fileno())
        os.close(full)
        file.write(b"x" * 100_000)
    assert not Path("/dev/shm/x").exists()


def test_a_folder_that_is_not_there_or_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent" / "a", tmp_path / "file" / "a", tmp_path / ("n" * 300)):
        with pytest.raises(CannotWrite):
            files.write_atomically(path, b"")
    with pytest.raises(CannotWrite):
        files.make_folder(tmp_path / "file" / "sub")
    with pytest.raises(CannotWrite):
        files.make_folder(tmp_path / "file")


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(CannotWrite):
        files.write_atomically(tmp_path / "a", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_planted_link_in_the_place_of_the_temporary_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    files.unfinished(tmp_path / "a").symlink_to("victim")
    with pytest.raises(CannotWrite):
        files.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_bytes() == b"untouched"


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "a").symlink_to("victim")
    files.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert not (tmp_path / "a").is_symlink()


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(SourceMissing):
        files.sha256_of(tmp_path / "absent")


@pytest.mark.parametrize(("mode", "private"), [(0o600, True), (0o400, True), (0o640, False), (0o601, False)])
def test_what_is_private(tmp_path: Path, mode: int, private: bool) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(mode)
    assert files.is_private(tmp_path / "a") == private
    (tmp_path / "link").symlink_to("a")
    assert not files.is_private(tmp_path / "link")


def test_what_writers_that_are_gone_have_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    mine, folder = files.unfinished(tmp_path / "a.b"), tmp_path / "below"
    folder.mkdir()
    parent, dead = (
        mine.with_name(mine.name.replace(f".{os.getpid()}", f".{number}")) for number in (os.getppid(), gone.pid)
    )
    machine = mine.name[-14:-4]
    elsewhere, long_ago = (mine.with_name(mine.name.replace(machine, number)) for number in ("0123456789", "9" * 10))
    other = tmp_path / ".site.yaml.tmp"
    for path in (mine, parent, dead, folder / dead.name, elsewhere, long_ago, other):
        path.touch()
    os.utime(long_ago, (0, 0))
    files.sweep(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {parent, elsewhere, other}
